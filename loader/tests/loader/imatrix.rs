//! Importance files: what is written is read, by either kind; what lies is refused with the field that lies;
//! and experts that no token went to leave no trace but a line.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

use std::path::{Path, PathBuf};

use moelten_loader::container::catalog::Storage;
use moelten_loader::container::gguf::Value;
use moelten_loader::container::gguf::write::{GgufWriter, TensorPlan};
use moelten_loader::imatrix::{Gaps, ImportanceEntry, ImportanceFile, Provenance, write};
use moelten_loader::io::{FileBytes, Memory};
use moelten_loader::load::load;
use moelten_loader::spec::ModelSpec;
use moelten_loader::spec::Part;
use moelten_loader::tensors::roles::{LayerTensor, Role};
use moelten_quant::Format;

const Q: Role = Role::Layer(0, LayerTensor::Q);
const UP: Role = Role::Layer(0, LayerTensor::Experts(Part::Up));

/// Names, columns, values.
type Tensors<'a> = &'a [(&'a str, u64, &'a [f32])];

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("f")
    }

    /// A file with these bytes, opened.
    fn open(&self, bytes: &[u8]) -> Result<ImportanceFile, String> {
        std::fs::write(self.path(), bytes).unwrap();
        ImportanceFile::open(&self.path()).map_err(|error| error.to_string())
    }

    /// A GGUF file with these tensors, opened.
    fn gguf(&self, kind: &str, tensors: Tensors<'_>) -> Result<ImportanceFile, String> {
        let metadata = [("general.type".to_owned(), Value::Str(kind.to_owned()))];
        let plan: Vec<_> = tensors
            .iter()
            .map(|&(name, cols, values)| TensorPlan {
                name: name.to_owned(),
                storage: Storage::Known(Format::F32),
                shape: vec![values.len() as u64 / cols, cols],
            })
            .collect();
        let mut writer = GgufWriter::create(&self.path(), &metadata, &plan, &[]).unwrap();
        for (name, _, values) in tensors {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            writer.write_tensor(name, &bytes).unwrap();
        }
        writer.finish().unwrap();
        ImportanceFile::open(&self.path()).map_err(|error| error.to_string())
    }
}

/// A file of the older kind: name, count, sums of each entry.
fn legacy(entries: &[(&str, i32, &[f32])], tail: &[u8]) -> Vec<u8> {
    let mut out = i32::try_from(entries.len()).unwrap().to_le_bytes().to_vec();
    for (name, count, sums) in entries {
        out.extend(i32::try_from(name.len()).unwrap().to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(count.to_le_bytes());
        out.extend(i32::try_from(sums.len()).unwrap().to_le_bytes());
        out.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
    }
    out.extend(tail);
    out
}

fn mixtral() -> ModelSpec {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden/mixtral");
    load(&folder).unwrap().spec
}

#[test]
fn what_is_written_is_read() {
    let folder = Folder::new();
    let provenance =
        Provenance { datasets: vec!["a.txt".into(), "b.txt".into()], chunks: 3, chunk_size: 512, tokens: 4 };
    let entries = [
        ImportanceEntry { role: UP, cols: 2, sums: &[1.0, 2.0, 0.0, 0.0, 9.0, 0.0], counts: &[1, 0, 3] },
        ImportanceEntry { role: Q, cols: 3, sums: &[4.0, 0.0, 8.0], counts: &[4] },
    ];
    write(&folder.path(), &provenance, &entries, &[]).unwrap();
    let file = ImportanceFile::open(&folder.path()).unwrap();
    assert_eq!(file.provenance(), &provenance);
    assert_eq!(file.notices(), <[String; 0]>::default());
    let importance = |role, expert, cols| file.importance(role, expert, cols).unwrap();
    assert_eq!(importance(Q, None, 3), Some(vec![1.0, 0.0, 2.0]));
    assert_eq!(importance(UP, Some(0), 2), Some(vec![1.0, 2.0]));
    assert_eq!(importance(UP, Some(2), 2), Some(vec![3.0, 0.0]));
    // The mean of all tokens that were seen by any expert.
    assert_eq!(importance(UP, Some(1), 2), Some(vec![2.5, 0.5]));
    assert_eq!(importance(UP, None, 2), Some(vec![2.5, 0.5]));
    assert_eq!(importance(Role::Head, None, 3), None);
    assert_eq!(importance(Role::Layer(1, LayerTensor::Q), None, 3), None);

    for (role, expert, cols, words) in [
        (Q, None, 4, "blk.0.attn_q.weight has 3 columns in this file, but 4 in the model"),
        (UP, Some(0), 3, "has 2 columns in this file, but 3 in"),
        (UP, Some(3), 2, "has 3 experts in this file, but more than 3 in the model"),
    ] {
        let error = file.importance(role, expert, cols).unwrap_err().to_string();
        assert!(error.contains(words) && error.ends_with("made from another model"), "{error}");
    }
}

#[test]
fn llama_cpp_writes_such_files() {
    // As its tool does: sums of the values themselves beside those of their squares, and matrices that no
    // model of ours has.
    let folder = Folder::new();
    let file = folder.gguf(
        "imatrix",
        &[
            ("blk.0.attn_q.weight.in_sum2", 2, &[6.0, 3.0]),
            ("blk.0.attn_q.weight.counts", 1, &[3.0]),
            ("blk.0.attn_q.weight.in_sum", 2, &[-1.0, 1.0]),
            ("blk.0.vision_attn_q.weight.in_sum2", 2, &[6.0, 3.0]),
            ("blk.0.vision_attn_q.weight.counts", 1, &[3.0]),
            ("blk.0.ffn_gate_up_exps.weight.in_sum2", 2, &[1.0, 2.0, 4.0, 8.0]),
            ("blk.0.ffn_gate_up_exps.weight.counts", 1, &[1.0, 2.0]),
        ],
    );
    let file = file.unwrap();
    assert_eq!(file.importance(Q, None, 2).unwrap(), Some(vec![2.0, 1.0]));
    for part in [Part::Gate, Part::Up] {
        let role = Role::Layer(0, LayerTensor::Experts(part));
        assert_eq!(file.importance(role, Some(1), 2).unwrap(), Some(vec![2.0, 4.0]));
    }
    let [notice] = file.notices() else { panic!("{:?}", file.notices()) };
    assert!(notice.contains("1 entries") && notice.contains("blk.0.vision_attn_q.weight"), "{notice}");
}

#[test]
fn the_older_kind_is_read() {
    let folder = Folder::new();
    let mut tail = 7_i32.to_le_bytes().to_vec();
    let entries: &[(&str, i32, &[f32])] = &[
        ("blk.0.attn_q.weight", 7, &[14.0, 7.0]),
        // The second expert has seen nothing: its columns are all the same.
        ("blk.0.ffn_up_exps.weight", 2, &[2.0, 4.0, 2.0, 2.0, 6.0, 0.0]),
        ("blk.0.ffn_down.0.weight", 2, &[2.0, 2.0]),
        ("blk.0.ffn_down.2.weight", 2, &[4.0, 6.0]),
    ];
    for text in [None, Some("wiki.txt")] {
        if let Some(text) = text {
            tail.extend(8_i32.to_le_bytes());
            tail.extend(text.bytes());
        }
        let file = folder.open(&legacy(entries, &tail)).unwrap();
        assert_eq!(file.provenance().chunks, 7);
        assert_eq!(file.provenance().datasets, text.map(str::to_owned).into_iter().collect::<Vec<_>>());
        let importance = |role, expert| file.importance(role, expert, 2).unwrap();
        assert_eq!(importance(Q, None), Some(vec![2.0, 1.0]));
        assert_eq!(importance(UP, Some(0)), Some(vec![1.0, 2.0]));
        assert_eq!(importance(UP, Some(1)), Some(vec![2.0, 1.0]), "the mean of the others");
        // Equal numbers are filler only where there are other experts in the entry.
        let down = Role::Layer(0, LayerTensor::Experts(Part::Down));
        assert_eq!(importance(down, Some(0)), Some(vec![1.0, 1.0]));
        assert_eq!(importance(down, Some(1)), Some(vec![1.5, 2.0]));
        assert_eq!(importance(down, Some(2)), Some(vec![2.0, 3.0]));
    }
    assert!(folder.open(&legacy(entries, &[])).is_ok(), "the oldest files end after the entries");
}

#[test]
fn b87_what_lies_is_refused() {
    let folder = Folder::new();
    let (sums, counts) = ("blk.0.attn_q.weight.in_sum2", "blk.0.attn_q.weight.counts");
    let cases: &[(&str, Tensors<'_>, &str)] = &[
        (
            "imatrix",
            &[(sums, 2, &[f32::NAN, 1.0]), (counts, 1, &[1.0])],
            "sum 0 of blk.0.attn_q.weight at byte",
        ),
        (
            "imatrix",
            &[(sums, 2, &[1.0, f32::INFINITY]), (counts, 1, &[1.0])],
            "is inf, but must be a sum of squares",
        ),
        ("imatrix", &[(sums, 2, &[1.0, -1.0]), (counts, 1, &[1.0])], "is -1, but must be a sum of squares"),
        ("imatrix", &[(sums, 2, &[1.0, 0.0]), (counts, 1, &[0.0])], "because its count is 0"),
        ("imatrix", &[(sums, 2, &[1.0, 1.0]), (counts, 1, &[f32::NAN])], "counts: is NaN"),
        ("imatrix", &[(sums, 2, &[1.0, 1.0]), (counts, 1, &[-1.0])], "counts: is -1"),
        ("imatrix", &[(sums, 2, &[1.0, 1.0]), (counts, 1, &[1e-30])], "a number from 1 up"),
        (
            "imatrix",
            &[(sums, 2, &[1.0, 1.0]), (counts, 1, &[1.0, 1.0])],
            "is 2 counts, which contradicts 1 rows",
        ),
        ("imatrix", &[(sums, 2, &[0.0, 0.0]), (counts, 1, &[0.0])], "no matrix has any"),
        ("imatrix", &[(sums, 2, &[1.0, 1.0])], "tensor blk.0.attn_q.weight.counts: is missing"),
        ("imatrix", &[(counts, 1, &[1.0])], "tensor blk.0.attn_q.weight.in_sum2: is missing"),
        ("imatrix", &[], "no matrix has any"),
        ("model", &[(sums, 2, &[1.0, 1.0]), (counts, 1, &[1.0])], "general.type: is \"model\", but must be"),
    ];
    for (kind, tensors, words) in cases {
        let error = folder.gguf(kind, tensors).unwrap_err();
        assert!(error.contains(words), "{tensors:?}: {error}");
    }
    for (name, bytes, words) in [
        ("nothing", vec![], "needs 4 bytes, but 0 are left"),
        ("text", b"Once upon a time".to_vec(), "number of entries of an importance file at byte 0: is"),
        ("a web page", b"<html>".to_vec(), "a web page"),
        ("no entries", legacy(&[], &[]), "is 0, but must be 1"),
        ("NaN", legacy(&[("blk.0.attn_q.weight", 1, &[f32::NAN])], &[]), "is NaN"),
        ("no count", legacy(&[("blk.0.attn_q.weight", 0, &[1.0])], &[]), "its count at byte 27: is 0"),
        ("no sums", legacy(&[("blk.0.attn_q.weight", 1, &[])], &[]), "number of its sums"),
        ("twice", legacy(&[("output.weight", 1, &[1.0]), ("output.weight", 1, &[1.0])], &[]), "occurs twice"),
        ("a control byte", legacy(&[("blk\x1b[2J", 1, &[1.0])], &[]), "control characters"),
        ("more", legacy(&[("output.weight", 1, &[1.0])], &[0; 9]), "followed by 1 bytes"),
    ] {
        let error = folder.open(&bytes).expect_err(name);
        assert!(error.contains(words) && !error.chars().any(char::is_control), "{name}: {error}");
    }
}

#[test]
fn no_cut_of_a_file_is_read() {
    let folder = Folder::new();
    let entries = [ImportanceEntry { role: Q, cols: 3, sums: &[4.0, 0.0, 8.0], counts: &[4] }];
    write(&folder.path(), &Provenance::default(), &entries, &[]).unwrap();
    let whole = std::fs::read(folder.path()).unwrap();
    // Padding after the last tensor carries nothing.
    let end = whole.len() - 28;
    assert!((0..end).all(|len| folder.open(&whole[..len]).is_err()));
    assert!(folder.open(&whole[..end]).is_ok());
    let old = legacy(&[("blk.0.attn_q.weight", 1, &[1.0, 2.0])], &[]);
    assert!((0..old.len()).all(|len| folder.open(&old[..len]).is_err()));
}

#[test]
fn a_model_is_held_against_the_file() {
    let (folder, spec) = (Folder::new(), mixtral());
    let experts = [0_u64, 5, 0, 0, 9, 1, 1, 1];
    let sums: Vec<f32> = experts.iter().flat_map(|&count| vec![count as f32; 64]).collect();
    let entries = [
        ImportanceEntry { role: Q, cols: 64, sums: &[1.0; 64], counts: &[4] },
        ImportanceEntry { role: UP, cols: 64, sums: &sums, counts: &experts },
    ];
    write(&folder.path(), &Provenance::default(), &entries, &[]).unwrap();
    let gaps = ImportanceFile::open(&folder.path()).unwrap().check(&spec).unwrap();
    assert_eq!(gaps.experts, [(UP, vec![0, 2, 3])]);
    // 3 layers of q, k, v, o, router and 3 banks, and the head, but for the two that are there.
    assert_eq!(gaps.matrices.len(), 3 * 8 + 1 - 2);
    assert!(gaps.matrices.contains(&Role::Head) && !gaps.matrices.contains(&Q));

    type Shape = (Role, usize, usize);
    let others: [(Shape, &str); 5] = [
        ((Q, 1, 32), "has 32 columns in this file, but 64 in"),
        (
            (Role::Layer(3, LayerTensor::Q), 1, 64),
            "blk.3.attn_q.weight has sums in this file, but no place in",
        ),
        (
            (Role::Layer(0, LayerTensor::Dense(Part::Up)), 1, 64),
            "blk.0.ffn_up.weight has sums in this file, but no place in",
        ),
        ((UP, 4, 64), "has 4 experts in this file, but 8 in"),
        ((UP, 9, 64), "has 9 experts in this file, but 8 in"),
    ];
    for ((role, rows, cols), words) in others {
        let (sums, counts) = (vec![1.0; rows * cols], vec![1; rows]);
        let entries = [ImportanceEntry { role, cols, sums: &sums, counts: &counts }];
        write(&folder.path(), &Provenance::default(), &entries, &[]).unwrap();
        let error = ImportanceFile::open(&folder.path()).unwrap().check(&spec).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("made from another model"), "{error}");
    }
}

#[test]
fn nothing_is_missing_of_a_whole_file() {
    let (folder, spec) = (Folder::new(), mixtral());
    let gaps = |file: &ImportanceFile| file.check(&spec).unwrap();
    let entries = [ImportanceEntry { role: Q, cols: 64, sums: &[1.0; 64], counts: &[4] }];
    write(&folder.path(), &Provenance::default(), &entries, &[]).unwrap();
    let Gaps { matrices, .. } = gaps(&ImportanceFile::open(&folder.path()).unwrap());
    let shape = |role| match role {
        Role::Layer(_, LayerTensor::Experts(Part::Down)) => (8, 96),
        Role::Layer(_, LayerTensor::Experts(_)) => (8, 64),
        _ => (1, 64),
    };
    let all: Vec<Role> = matrices.into_iter().chain([Q]).collect();
    let ones = vec![1.0; 8 * 96];
    let entry = |&role: &Role| {
        let (rows, cols) = shape(role);
        ImportanceEntry { role, cols, sums: &ones[..rows * cols], counts: &[2; 8][..rows] }
    };
    let entries: Vec<_> = all.iter().map(entry).collect();
    write(&folder.path(), &Provenance::default(), &entries, &[]).unwrap();
    assert_eq!(gaps(&ImportanceFile::open(&folder.path()).unwrap()), Gaps::default());
}

/// A find of the fuzz target: means that no number is small enough for are no importance, and not all zero.
#[test]
fn sums_that_are_too_small_for_a_mean() {
    let folder = Folder::new();
    let entries = [ImportanceEntry { role: Q, cols: 64, sums: &[1e-45; 64], counts: &[1000] }];
    write(&folder.path(), &Provenance::default(), &entries, &[]).unwrap();
    let file = ImportanceFile::open(&folder.path()).unwrap();
    assert_eq!(file.importance(Q, None, 64).unwrap(), None);
}

/// What the fuzz target does at length: any byte of a file may be any other.
#[test]
fn changed_bytes_do_no_harm() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/imatrix");
    let mut read = [0, 0];
    for seed in std::fs::read_dir(seeds).unwrap() {
        let whole = std::fs::read(seed.unwrap().path()).unwrap();
        for (place, change) in
            (0..whole.len()).flat_map(|place| [1, 0x40, 0x80, 0xff].map(|change| (place, change)))
        {
            let mut memory = Memory::zeroed(whole.len()).unwrap();
            memory.bytes_mut()[..whole.len()].copy_from_slice(&whole);
            memory.bytes_mut()[place] ^= change;
            let file = ImportanceFile::read(FileBytes::generated(Path::new("f"), memory).unwrap());
            read[usize::from(file.is_ok())] += 1;
            let Ok(file) = file else { continue };
            for (role, expert, cols) in
                [(Q, None, 2), (Q, None, 1), (UP, Some(0), 2), (UP, Some(1), 2), (UP, None, 3)]
            {
                let importance = file.importance(role, expert, cols).ok().flatten();
                assert!(importance.iter().flatten().all(|x| x.is_finite() && *x >= 0.0), "{place} {change}");
                assert!(importance.is_none_or(|means| means.iter().any(|x| *x > 0.0)), "{place} {change}");
            }
        }
    }
    assert!(read.iter().all(|&number| number > 100), "refused and read: {read:?}");
}
