//! Tensors that have to be arranged before they can be multiplied: E4M3 numbers with scales beside them,
//! pairs of E2M1 numbers, blocks of NVFP4 with one more scale, banks whose matrices are transposed or whose
//! rows alternate. Folders have them as they were released. It must not know how bytes are arranged.

use std::collections::{HashMap, HashSet};

use moelten_quant::Format;

use crate::container::catalog::{Catalog, Storage, TensorInfo};
use crate::error::{Fault, LoadError, Result};
use crate::io::reader::printable;
use crate::tensors::arranged::{
    Along, Arranged, EIGHTS, Grid, Lines, ScaleType, SourceRun, Stored, Unit, Whole,
};
use crate::tensors::bank::MatrixRef;
use crate::tensors::resolve::Resolver;
use crate::tensors::roles::{Names, Role, Rows};

/// What the name of a matrix's scales ends with, and what the matrix's own name ends with there.
const SCALES: [(&str, &str); 7] = [
    ("", "_scale_inv"),
    ("", "_scale"),
    (".weight", ".scale"),
    ("_blocks", "_scales"),
    (".weight", ".weight_scale"),
    ("_packed", "_scale"),
    ("_proj", "_proj_weight_scale"),
];
/// The same of the scale of a whole matrix of pairs of E2M1 numbers, and whether it divides.
const WHOLE: [(&str, &str, bool); 3] =
    [("", "_scale_2", false), ("_packed", "_global_scale", true), ("_proj", "_proj_weight_scale_2", false)];
/// What the name of a tensor ends with by which inputs have to be multiplied, which no product does.
const OF_INPUTS: &str = ".pre_quant_scale";
/// Sides of blocks that share a scale, the usual one first.
const SIDES: [usize; 8] = [128, 64, 32, 256, 512, 1024, 2048, 16];
/// Numbers of a row that share a power of two, in pairs of E2M1 numbers.
const FOURS: usize = 32;
/// The same with E4M3 scales.
const SIXTEENS: usize = 16;

impl<'a> Resolver<'a> {
    pub(super) fn new(catalog: &'a Catalog, names: Names, sizes: HashMap<Role, usize>) -> Self {
        let (used, arranged, units) = (HashSet::new(), Arranged::default(), HashMap::new());
        Self { catalog, names, sizes, used, arranged, units, wholes: HashSet::new() }
    }

    /// Whether a tensor holds pairs of four-bit numbers: its scales are powers of two beside it.
    pub(super) fn is_fours(&self, tensor: &TensorInfo) -> bool {
        matches!(tensor.storage.name(), "I8" | "U8")
            && self
                .scales_beside(tensor)
                .is_some_and(|scales| matches!(scales.storage.name(), "F8_E8M0" | "U8"))
    }

    /// Whether a tensor holds pairs of four-bit numbers with an 8-bit float for each 16 of a row beside it.
    pub(super) fn is_sixteens(&self, tensor: &TensorInfo) -> bool {
        matches!(tensor.storage.name(), "I8" | "U8")
            && self.scales_beside(tensor).is_some_and(|scales| scales.storage.name() == EIGHTS)
    }

    fn scales_beside(&self, tensor: &TensorInfo) -> Option<&'a TensorInfo> {
        SCALES.iter().find_map(|(own, of_scales)| {
            let stem = tensor.name.strip_suffix(own)?;
            self.catalog.get(&format!("{stem}{of_scales}"))
        })
    }

    /// The scales of a tensor, which is of no use without them.
    fn scales_of(&mut self, tensor: &TensorInfo) -> Result<&'a TensorInfo> {
        let scales = self.scales_beside(tensor).ok_or_else(|| {
            let fault = Fault::Missing { hint: ": 8-bit floats have scales in a tensor of that name" };
            self.fault(tensor, "_scale_inv", fault)
        })?;
        self.used.insert(scales.name.as_str());
        Ok(scales)
    }

    fn fault(&self, tensor: &TensorInfo, suffix: &str, fault: Fault) -> LoadError {
        LoadError::malformed(self.catalog.path(tensor), format!("tensor {}{suffix}", tensor.name), fault)
    }

    /// Some rows of (one expert of) a tensor of E4M3 numbers, `[whole, cols]`: `rows` of them after `skip`.
    pub(super) fn scaled_rows(
        &mut self,
        tensor: &TensorInfo,
        skip: usize,
        (whole, rows): (usize, usize),
        cols: usize,
        expert: usize,
    ) -> Result<MatrixRef> {
        let grid = self.grid(tensor, (whole, cols), expert, skip)?;
        let first = self.times(tensor, whole, expert)?.saturating_add(wide(skip));
        let from = self.place(tensor, first.saturating_mul(wide(cols)));
        let format = eights_as(cols, (grid.cols, grid.block_cols));
        let (along, lines) = (Along::Rows, Lines::InOrder);
        Ok(self.whole_unit(Unit { from, stored: Stored::Scaled(grid), along, lines, rows, cols, format }))
    }

    /// Some rows of a tensor of pairs of E2M1 numbers, `[whole, cols / 2]`.
    pub(super) fn four_bit_rows(
        &mut self,
        tensor: &TensorInfo,
        skip: usize,
        (whole, rows): (usize, usize),
        cols: usize,
        expert: usize,
    ) -> Result<MatrixRef> {
        let scales = self.powers(tensor, (whole, cols), expert, skip)?;
        let first = self.times(tensor, whole, expert)?.saturating_add(wide(skip));
        let from = self.place(tensor, first.saturating_mul(wide(cols / 2)));
        let (along, lines, format) = (Along::Rows, Lines::InOrder, Format::Mxfp4);
        Ok(self.whole_unit(Unit { from, stored: Stored::Fours { scales }, along, lines, rows, cols, format }))
    }

    /// As [`Self::four_bit_rows`], with an E4M3 scale for each 16 numbers of a row, and one for all of them
    /// or for each expert's.
    pub(super) fn sixteen_rows(
        &mut self,
        tensor: &TensorInfo,
        skip: usize,
        (whole, rows): (usize, usize),
        cols: usize,
        expert: usize,
    ) -> Result<MatrixRef> {
        let scales = self.scales_of(tensor)?;
        let experts = tensor.shape.len().checked_sub(3).and(tensor.shape.first().copied());
        let of_one = [wide(whole), wide(cols / SIXTEENS)];
        let own: Vec<u64> = experts.into_iter().chain(of_one).collect();
        if scales.shape != own || !cols.is_multiple_of(SIXTEENS) {
            let fault = Fault::WrongShape { found: scales.shape.clone(), expected: own };
            return Err(self.fault(scales, "", fault));
        }
        let scale = self.scale_of_whole(tensor, experts, expert)?;
        let first = self.times(tensor, whole, expert)?.saturating_add(wide(skip));
        let from = self.place(tensor, first.saturating_mul(wide(cols / 2)));
        let scales = self.place(scales, first.saturating_mul(wide(cols / SIXTEENS)));
        let divides = cols.is_multiple_of(Format::Nvfp4F32.block_len());
        let format = if divides { Format::Nvfp4F32 } else { Format::F32 };
        let (stored, along, lines) = (Stored::Sixteens { scales, whole: scale }, Along::Rows, Lines::InOrder);
        Ok(self.whole_unit(Unit { from, stored, along, lines, rows, cols, format }))
    }

    /// The scale of a whole matrix of pairs of E2M1 numbers, if it has one. A bank of `experts` has one for
    /// all of them, or one for each.
    fn scale_of_whole(
        &mut self,
        tensor: &TensorInfo,
        experts: Option<u64>,
        expert: usize,
    ) -> Result<Option<Whole>> {
        let stem = tensor.name.strip_suffix(".weight").or_else(|| tensor.name.strip_suffix(".weight_packed"));
        let of_inputs = stem.and_then(|stem| self.catalog.get(&format!("{stem}{OF_INPUTS}")));
        if let Some(scale) = of_inputs {
            return Err(LoadError::Unsupported {
                path: self.catalog.path(scale).to_owned(),
                feature: format!("tensor {}, a scale of inputs", printable(&scale.name)),
                hint: "NVFP4 without scales of inputs is; or use a GGUF file of this model".into(),
            });
        }
        let found = WHOLE.iter().find_map(|&(own, of_scale, divides)| {
            let stem = tensor.name.strip_suffix(own)?;
            Some((self.catalog.get(&format!("{stem}{of_scale}"))?, divides))
        });
        let Some((scale, divides)) = found else { return Ok(None) };
        self.used.insert(scale.name.as_str());
        let of_each = experts.filter(|_| scale.shape.iter().any(|&size| size != 1));
        self.check_scale(scale, of_each.unwrap_or(1))?;
        let skip = if of_each.is_some() { 4 * wide(expert) } else { 0 };
        Ok(Some(Whole { place: self.place(scale, skip), divides }))
    }

    /// Refuses a bank of such matrices that do not lie as products take them, `[experts, rows, cols / 2]`.
    pub(super) fn refuse_turned_sixteens(&self, tensor: &TensorInfo) -> LoadError {
        LoadError::Unsupported {
            path: self.catalog.path(tensor).to_owned(),
            feature: format!(
                "tensor {}: NVFP4 of all experts in one tensor {:?} whose rows are inputs or alternate",
                printable(&tensor.name),
                tensor.shape
            ),
            hint:
                "such tensors with outputs as rows are, and folders with tensors for each expert; or use a \
                   GGUF file of this model"
                    .into(),
        }
    }

    /// Checks that a tensor holds some f32 numbers.
    fn check_scale(&self, scale: &TensorInfo, count: u64) -> Result<()> {
        if scale.storage != Storage::Known(Format::F32) {
            let found = scale.storage.name().to_owned();
            return Err(self.fault(scale, "", Fault::WrongType { found, expected: "F32" }));
        }
        if scale.shape.iter().try_fold(1_u64, |all, &size| all.checked_mul(size)) != Some(count) {
            let fault = Fault::WrongShape { found: scale.shape.clone(), expected: vec![count] };
            return Err(self.fault(scale, "", fault));
        }
        Ok(())
    }

    /// The scale of a quantised matrix, or of each expert's, in a tensor of a GGUF file beside it. Those that
    /// have a role of their own are none.
    pub(super) fn scale_beside(&self, tensor: &TensorInfo) -> Option<&'a TensorInfo> {
        let stem = tensor.name.strip_suffix(".weight")?;
        let scale = self.catalog.get(&format!("{stem}.scale"))?;
        let name = scale.name.as_str();
        (!self.used.contains(name) || self.wholes.contains(name)).then_some(scale)
    }

    /// Some rows of (one expert of) a tensor of NVFP4 blocks that has a scale in a tensor beside it.
    pub(super) fn scaled_blocks(
        &mut self,
        tensor: &TensorInfo,
        scale: &'a TensorInfo,
        skip: usize,
        (whole, rows): (usize, usize),
        cols: usize,
        expert: usize,
    ) -> Result<MatrixRef> {
        let experts = if tensor.shape.len() == 3 { tensor.shape.first().copied().unwrap_or(1) } else { 1 };
        self.check_scale(scale, experts)?;
        self.used.insert(scale.name.as_str());
        self.wholes.insert(scale.name.as_str());
        let row_bytes = wide(self.row_bytes(tensor, Format::Nvfp4, cols)?);
        let first = self.times(tensor, whole, expert)?.saturating_add(wide(skip));
        let from = self.place(tensor, first.saturating_mul(row_bytes));
        let whole = Whole { place: self.place(scale, 4 * wide(expert)), divides: false };
        let (along, lines, format) = (Along::Rows, Lines::InOrder, Format::Nvfp4F32);
        Ok(self.whole_unit(Unit { from, stored: Stored::Blocks { whole }, along, lines, rows, cols, format }))
    }

    /// The biases of one of two matrices whose rows alternate: `[experts, 2 * cols]` has those of both.
    pub(super) fn alternating_vectors(
        &mut self,
        tensor: &TensorInfo,
        (rows, cols): (usize, usize),
        odd: bool,
    ) -> Result<MatrixRef> {
        let format = self.plain_format(tensor)?;
        // Two columns become two rows of all biases.
        let all = usize::try_from(self.times(tensor, rows, cols)?).unwrap_or(usize::MAX);
        let unit = Unit {
            from: self.place(tensor, 0),
            stored: Stored::Floats(format.block_bytes()),
            along: Along::Columns,
            lines: Lines::InOrder,
            rows: 2,
            cols: all,
            format,
        };
        let (offset, bytes) = (self.unit(unit, tensor, 0), wide(all) * wide(format.block_bytes()));
        let offset = if odd { offset + bytes } else { offset };
        Ok(MatrixRef { format, rows, cols, file: self.arranged_file(), offset, bytes })
    }

    /// Vectors of `cols` numbers that are tensors of their own, as the rows of a matrix.
    pub(super) fn vectors_apart(&mut self, tensors: &[&'a TensorInfo], cols: usize) -> Result<MatrixRef> {
        let Some(&first) = tensors.first() else { unreachable!("a bank has an expert") };
        let format = self.plain_format(first)?;
        for &tensor in tensors {
            self.check_shape(tensor, &[wide(cols)])?;
            if self.plain_format(tensor)? != format {
                let found = tensor.storage.name().to_owned();
                let fault = Fault::WrongType { found, expected: "the type of the other experts' biases" };
                return Err(self.fault(tensor, "", fault));
            }
        }
        let runs: Vec<SourceRun> = tensors.iter().map(|tensor| self.place(tensor, 0)).collect();
        let (from, rows) = (self.place(first, 0), tensors.len());
        let stored = self.arranged.apart(runs);
        let (along, lines) = (Along::Rows, Lines::InOrder);
        Ok(self.whole_unit(Unit { from, stored, along, lines, rows, cols, format }))
    }

    /// One part, `[rows, cols]`, of every expert of a bank whose matrices do not lie as products take them.
    /// `part` says which rows of the tensor it has; they may be `columns`.
    pub(super) fn lying_part(
        &mut self,
        tensor: &'a TensorInfo,
        (part, columns): (Rows, bool),
        experts: usize,
        (rows, cols): (usize, usize),
    ) -> Result<Vec<MatrixRef>> {
        let fused = !matches!(part, Rows::All);
        let whole = if fused { rows.saturating_mul(2) } else { rows };
        let (in_rows, in_cols) = if columns { (cols, whole) } else { (whole, cols) };
        let four_bits = self.is_fours(tensor) && !columns;
        let expected = [experts, in_rows, in_cols].map(wide);
        let flat = [wide(experts).saturating_mul(wide(in_rows)), wide(in_cols)];
        let blocks = [wide(experts), wide(in_rows), wide(in_cols / FOURS), 16];
        let fits =
            if four_bits { tensor.shape == blocks } else { tensor.shape == expected || tensor.shape == flat };
        if !fits {
            let expected = if four_bits { blocks.to_vec() } else { expected.to_vec() };
            return Err(self.fault(tensor, "", Fault::WrongShape { found: tensor.shape.clone(), expected }));
        }
        let second = matches!(part, Rows::SecondHalf | Rows::Odd);
        let lines = if matches!(part, Rows::Even | Rows::Odd) { Lines::Alternating } else { Lines::InOrder };
        let along = if columns { Along::Columns } else { Along::Rows };
        let numbers = self.times(tensor, in_rows, in_cols)?;
        (0..experts)
            .map(|expert| {
                let (stored, format, slab) = if four_bits {
                    let scales = self.powers(tensor, (whole, cols), expert, 0)?;
                    (Stored::Fours { scales }, Format::Mxfp4, numbers / 2)
                } else if tensor.storage.name() == EIGHTS {
                    let grid = self.grid(tensor, (in_rows, in_cols), expert, 0)?;
                    let along_row =
                        if columns { (grid.rows, grid.block_rows) } else { (grid.cols, grid.block_cols) };
                    (Stored::Scaled(grid), eights_as(cols, along_row), numbers)
                } else {
                    let format = self.plain_format(tensor)?;
                    let size = format.block_bytes();
                    (Stored::Floats(size), format, numbers.saturating_mul(wide(size)))
                };
                let from = self.place(tensor, slab.saturating_mul(wide(expert)));
                let unit = Unit { from, stored, along, lines, rows: whole, cols, format };
                let row_bytes = wide(self.row_bytes(tensor, format, cols)?);
                let start = self.unit(unit, tensor, expert);
                let offset = start + if second { wide(rows) * row_bytes } else { 0 };
                let bytes = wide(rows) * row_bytes;
                Ok(MatrixRef { format, rows, cols, file: self.arranged_file(), offset, bytes })
            })
            .collect()
    }

    /// The scales of E4M3 numbers, `(rows, cols)` of them, of which those before `first_row` belong to
    /// others.
    fn grid(
        &mut self,
        tensor: &TensorInfo,
        (rows, cols): (usize, usize),
        expert: usize,
        first_row: usize,
    ) -> Result<Grid> {
        let scales = self.scales_of(tensor)?;
        let scale = match scales.storage {
            Storage::Known(format @ (Format::F32 | Format::F16 | Format::BF16)) => ScaleType::Float(format),
            Storage::Other("F8_E8M0") => ScaleType::Power,
            other => {
                let found = other.name().to_owned();
                let fault = Fault::WrongType { found, expected: "F32, BF16, F16 or F8_E8M0" };
                return Err(self.fault(scales, "", fault));
            }
        };
        let stacked = tensor.shape.len() == 3;
        let own: &[u64] = match scales.shape.split_first() {
            Some((experts, own)) if stacked && Some(experts) == tensor.shape.first() => own,
            _ if stacked => &[0, 0, 0],
            _ => &scales.shape,
        };
        let (of_rows, of_cols) = match *own {
            [] => (1, 1),
            [of_rows] => (of_rows, 1),
            [of_rows, of_cols] => (of_rows, of_cols),
            _ => (0, 0),
        };
        let Some((block_rows, block_cols)) = shared((rows, cols), (of_rows, of_cols)) else {
            let expected = vec![wide(rows.div_ceil(128)), wide(cols.div_ceil(128))];
            return Err(self.fault(scales, "", Fault::WrongShape { found: scales.shape.clone(), expected }));
        };
        let count = of_rows.saturating_mul(of_cols);
        let skipped = count.saturating_mul(wide(expert)).saturating_mul(wide(scale.bytes()));
        let place = self.place(scales, if stacked { skipped } else { 0 });
        let (rows, cols) = (narrow(of_rows), narrow(of_cols));
        Ok(Grid { place, scale, rows, cols, block_rows, block_cols, first_row })
    }

    /// The powers of two of pairs of E2M1 numbers, `[whole, cols / 32]`, from row `first_row` on.
    fn powers(
        &mut self,
        tensor: &TensorInfo,
        (whole, cols): (usize, usize),
        expert: usize,
        first_row: usize,
    ) -> Result<SourceRun> {
        let scales = self.scales_of(tensor)?;
        let of_row = wide(cols / FOURS);
        let own = [wide(whole), of_row];
        let fits = scales.shape == own || scales.shape.get(1..) == Some(&own[..]);
        if !fits || !cols.is_multiple_of(FOURS) {
            let fault = Fault::WrongShape { found: scales.shape.clone(), expected: own.to_vec() };
            return Err(self.fault(scales, "", fault));
        }
        let first = self.times(tensor, whole, expert)?.saturating_add(wide(first_row));
        Ok(self.place(scales, first.saturating_mul(of_row)))
    }

    fn place(&self, tensor: &TensorInfo, skipped: u64) -> SourceRun {
        SourceRun { file: tensor.file, offset: tensor.offset.saturating_add(skipped) }
    }

    /// `a * b`; its shape said so already, so it is small unless the file lies.
    fn times(&self, tensor: &TensorInfo, a: usize, b: usize) -> Result<u64> {
        wide(a).checked_mul(wide(b)).ok_or_else(|| self.fault(tensor, "", Fault::Overflow))
    }

    /// The format of a tensor of plain floats.
    fn plain_format(&self, tensor: &TensorInfo) -> Result<Format> {
        let format = tensor.known_format(self.catalog.path(tensor))?;
        if format.block_len() == 1 {
            return Ok(format);
        }
        let fault = Fault::WrongType { found: format.name().to_owned(), expected: "F32, F16 or BF16" };
        Err(self.fault(tensor, "", fault))
    }

    fn row_bytes(&self, tensor: &TensorInfo, format: Format, cols: usize) -> Result<usize> {
        format.row_bytes(cols).ok_or_else(|| {
            let block = format.block_len();
            self.fault(tensor, "", Fault::PartialBlock { columns: wide(cols), format: format.name(), block })
        })
    }

    /// The file of arranged matrices, which follows those of the catalogue.
    fn arranged_file(&self) -> usize {
        self.catalog.files().len()
    }

    /// A unit that is one matrix.
    fn whole_unit(&mut self, unit: Unit) -> MatrixRef {
        let Unit { rows, cols, format, .. } = unit;
        let bytes = wide(rows).saturating_mul(wide(format.row_bytes(cols).unwrap_or(0)));
        let offset = self.arranged.push(unit);
        MatrixRef { format, rows, cols, file: self.arranged_file(), offset, bytes }
    }

    /// Where a unit begins that two matrices share.
    fn unit(&mut self, unit: Unit, tensor: &TensorInfo, expert: usize) -> u64 {
        let arranged = &mut self.arranged;
        *self.units.entry((tensor.file, tensor.offset, expert)).or_insert_with(|| arranged.push(unit))
    }
}

/// The format that rows of E4M3 numbers get: blocks of 32 with a scale, or exact floats where rows or scales
/// do not divide so. `scales` is their number along a row, and how many numbers share one.
fn eights_as(cols: usize, (scales, share): (usize, usize)) -> Format {
    let block = Format::F8.block_len();
    let whole = cols.is_multiple_of(block) && (scales == 1 || share.is_multiple_of(block));
    if whole { Format::F8 } else { Format::F32 }
}

/// The sides of the blocks that share a scale: all numbers, a row, a column, or a square.
fn shared((rows, cols): (usize, usize), scales: (u64, u64)) -> Option<(usize, usize)> {
    let all = (rows.max(1), cols.max(1));
    match scales {
        (1, 1) => Some(all),
        (of_rows, 1) if of_rows == wide(rows) => Some((1, all.1)),
        (1, of_cols) if of_cols == wide(cols) => Some((all.0, 1)),
        _ => {
            let fits = |side: usize| scales == (wide(rows.div_ceil(side)), wide(cols.div_ceil(side)));
            SIDES.into_iter().find(|&side| fits(side)).map(|side| (side, side))
        }
    }
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn narrow(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
