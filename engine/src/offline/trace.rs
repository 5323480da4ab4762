//! Routing traces: the experts that each token of a run chose, bank by bank, as a file. The writer observes
//! forward passes; the reader checks everything that it reads. It must not know what traces are used for.
//!
//! Numbers are little-endian. The fields have the names that error messages use.
//!
//! | bytes | field |
//! |---|---|
//! | 8 | magic, `MOELTRAC` |
//! | 4 | version, 2 |
//! | 8, then as many | model: length, UTF-8 |
//! | 8 | banks, at most 4096 |
//! | 4, 4, 4, 8 for each bank | layer; number of the bank in it; experts; bytes of one expert |
//! | any number of events | bank (2); tokens (4); choices of each token: count (2), expert ids (2 each) |
//! | 2, 8 | end: 65535 in place of a bank; number of events, so that truncation is detected |

use std::path::Path;

use moelten_loader::error::{Fault, LoadError, Result};
use moelten_loader::io::FileBytes;
use moelten_loader::io::output::PartialFile;
use moelten_loader::io::reader::{Reader, Scalar};
use moelten_loader::spec::BankKey;

use crate::forward::observe::Observer;
use crate::layers::ffn::router::Routing;

const MAGIC: &[u8; 8] = b"MOELTRAC";
const VERSION: u32 = 2;
/// Stands in place of a bank after the last event.
const END: u16 = u16::MAX;
/// Longest name of a model, in bytes.
const NAME_MAX: usize = 1 << 10;
/// Most banks of a model, and most experts of a bank: more than any model has, and few enough for a table of
/// them.
const BANKS_MAX: u64 = 1 << 12;
const EXPERTS_MAX: u32 = 1 << 13;
/// Most bytes of one expert, 1 TiB. Sums of such sizes do not overflow.
const EXPERT_BYTES_MAX: u64 = 1 << 40;
/// Most tokens of one event.
const TOKENS_MAX: u32 = 1 << 20;

/// An expert bank of the traced model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TracedBank {
    /// The layer of the bank, counted from 0.
    pub layer: u32,
    /// The number of the bank among those of its layer.
    pub bank: u32,
    /// Number of its experts.
    pub experts: u32,
    /// Bytes of the weights of one expert.
    pub expert_bytes: u64,
}

/// The model that a trace was recorded from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TraceHeader {
    /// Name of the model. It comes from a file, so it must be escaped when it is printed.
    pub model: String,
    /// All expert banks of the model.
    pub banks: Vec<TracedBank>,
}

impl TraceHeader {
    /// Number of experts of all banks together.
    pub fn experts(&self) -> u64 {
        self.banks.iter().map(|bank| u64::from(bank.experts)).sum()
    }
}

/// A recorded routing trace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    header: TraceHeader,
    /// Bank of each event, and one past the index of its last token.
    events: Vec<(usize, usize)>,
    /// One past the index of the last choice of each token.
    ends: Vec<usize>,
    /// Choices of all tokens, best first.
    ids: Vec<u16>,
}

/// Tokens of one pass that the router of one bank has routed.
#[derive(Debug, Clone, Copy)]
pub struct TraceEvent<'t> {
    /// Index of the bank in the header.
    pub bank: usize,
    /// One past the index in `ids` of the last choice of each token.
    ends: &'t [usize],
    /// Index in `ids` of the first choice.
    start: usize,
    ids: &'t [u16],
}

impl<'t> TraceEvent<'t> {
    /// Number of tokens, at least one.
    pub fn tokens(&self) -> usize {
        self.ends.len()
    }

    /// The experts of a token, best first.
    pub fn token(&self, token: usize) -> &'t [u16] {
        let start = if token == 0 { self.start } else { self.ends[token - 1] };
        &self.ids[start..self.ends[token]]
    }

    /// The experts of all tokens, token by token.
    pub fn choices(&self) -> &'t [u16] {
        &self.ids[self.start..self.ends.last().copied().unwrap_or(self.start)]
    }
}

impl Trace {
    /// Reads a trace file.
    ///
    /// # Errors
    /// [`LoadError::Io`]; [`LoadError::NotAModel`] for anything but a regular file; else as [`Self::parse`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(FileBytes::open(path)?.cursor())
    }

    /// Reads the bytes of a trace file. `path` is for messages. It allocates no more than a small multiple of
    /// the bytes.
    ///
    /// # Errors
    /// [`LoadError::Malformed`] with the field and its offset.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        Self::read(Reader::new(path, bytes))
    }

    fn read(mut r: Reader<'_>) -> Result<Self> {
        let found = r.bytes((MAGIC.len() as u64).min(r.remaining()), "magic")?;
        if found != MAGIC {
            return Err(r.fault_at(0, "magic", Fault::BadMagic { found }));
        }
        let at = r.offset();
        let version: u32 = r.scalar("version")?;
        if version != VERSION {
            let fault =
                Fault::Version { found: version.into(), known: "2", hint: "; record the trace again" };
            return Err(r.fault_at(at, "version", fault));
        }
        let model = r.name(NAME_MAX as u64, "model")?;
        let banks = r.count(BANKS_MAX, 20, "banks")?;
        let mut header = TraceHeader { model, banks: Vec::with_capacity(banks as usize) };
        for bank in 0..banks {
            let layer: u32 = r.scalar(format_args!("bank {bank} layer"))?;
            let of_layer: u32 = r.scalar(format_args!("bank {bank} number"))?;
            let experts =
                within(&mut r, 0, EXPERTS_MAX.into(), u64::from, format_args!("bank {bank} experts"))?;
            let field = format_args!("bank {bank} expert bytes");
            let expert_bytes = within(&mut r, 0, EXPERT_BYTES_MAX, |bytes: u64| bytes, field)?;
            header.banks.push(TracedBank { layer, bank: of_layer, experts, expert_bytes });
        }
        let mut trace = Self { header, ..Self::default() };
        // The last token that chose each expert, because no token may choose an expert twice.
        let widest = trace.header.banks.iter().map(|bank| bank.experts).max().unwrap_or(0);
        let mut chosen_by = vec![usize::MAX; widest as usize];
        while trace.event(&mut r, &mut chosen_by)? {}
        let (at, events) = (r.offset(), trace.events.len() as u64);
        let promised: u64 = r.scalar("number of events")?;
        if promised != events {
            let (found, other) = (promised.to_string(), format!("the {events} events before it"));
            return Err(r.fault_at(at, "number of events", Fault::Contradiction { found, other }));
        }
        if r.remaining() > 0 {
            return Err(r.fault("end", Fault::Hole { bytes: r.remaining() }));
        }
        Ok(trace)
    }

    /// Reads the next event. Returns `false` at the end.
    fn event(&mut self, r: &mut Reader<'_>, chosen_by: &mut [usize]) -> Result<bool> {
        let (at, number) = (r.offset(), self.events.len());
        let bank: u16 = r.scalar(format_args!("event {number} bank"))?;
        if bank == END {
            return Ok(false);
        }
        let bank = usize::from(bank);
        let experts = self.header.banks.get(bank).map_or(0, |bank| bank.experts);
        if experts == 0 {
            let (found, must) = (bank.to_string(), "the number of a bank with experts");
            return Err(r.fault_at(
                at,
                format_args!("event {number} bank"),
                Fault::BadNumber { found, must },
            ));
        }
        let field = format_args!("event {number} tokens");
        let tokens: u32 = within(r, 1, TOKENS_MAX.into(), u64::from, field)?;
        for _ in 0..tokens {
            let count: u16 = within(r, 0, experts.into(), u64::from, format_args!("event {number} choices"))?;
            let (at, field) = (r.offset(), format_args!("event {number} expert"));
            let ids = r.scalars::<u16>(count.into(), field)?;
            for (index, &id) in ids.iter().enumerate() {
                let at = at + 2 * index as u64;
                if u32::from(id) >= experts {
                    let high = u64::from(experts) - 1;
                    return Err(r.fault_at(
                        at,
                        field,
                        Fault::OutOfRange { found: id.to_string(), low: 0, high },
                    ));
                }
                let token = self.ends.len();
                if std::mem::replace(&mut chosen_by[usize::from(id)], token) == token {
                    return Err(r.fault_at(at, field, Fault::Duplicate));
                }
            }
            self.ids.extend(ids);
            self.ends.push(self.ids.len());
        }
        self.events.push((bank, self.ends.len()));
        Ok(true)
    }

    /// The model that was recorded.
    pub fn header(&self) -> &TraceHeader {
        &self.header
    }

    /// The events in the order of computation.
    pub fn events(&self) -> impl Iterator<Item = TraceEvent<'_>> {
        let mut first = 0;
        self.events.iter().map(move |&(bank, end)| {
            let start = if first == 0 { 0 } else { self.ends[first - 1] };
            let ends = &self.ends[first..end];
            first = end;
            TraceEvent { bank, ends, start, ids: &self.ids }
        })
    }
}

#[cfg(test)]
impl Trace {
    /// A trace of one bank of experts of 10 bytes. Each event is a list of tokens with their choices.
    pub(super) fn of_bank(experts: u32, events: &[Vec<Vec<u16>>]) -> Self {
        let banks = vec![TracedBank { experts, expert_bytes: 10, ..TracedBank::default() }];
        let mut trace = Self { header: TraceHeader { model: "m".to_owned(), banks }, ..Self::default() };
        for tokens in events {
            for token in tokens {
                trace.ids.extend(token);
                trace.ends.push(trace.ids.len());
            }
            trace.events.push((0, trace.ends.len()));
        }
        trace
    }
}

/// Reads a number and checks that it is between `low` and `high`.
fn within<T: Scalar + ToString>(
    r: &mut Reader<'_>,
    low: u64,
    high: u64,
    wide: impl Fn(T) -> u64,
    field: std::fmt::Arguments<'_>,
) -> Result<T> {
    let at = r.offset();
    let number: T = r.scalar(field)?;
    if (low..=high).contains(&wide(number)) {
        return Ok(number);
    }
    Err(r.fault_at(at, field, Fault::OutOfRange { found: number.to_string(), low, high }))
}

/// Writes a trace while a model runs. It is an [`Observer`] of passes; [`Self::finish`] completes the file.
#[derive(Debug)]
pub struct TraceWriter {
    file: PartialFile,
    /// The error of the first write that failed. Nothing is written after it.
    failed: Option<LoadError>,
    banks: Vec<TracedBank>,
    events: u64,
    /// The bytes of the event that is being written.
    bytes: Vec<u8>,
}

impl TraceWriter {
    /// Begins a trace. The file is a partial one until [`Self::finish`] gives it its name. Dropping the
    /// writer removes it.
    ///
    /// # Errors
    /// [`LoadError::Io`]; [`LoadError::Unsupported`] for a model that is larger than the format allows.
    pub fn create(path: &Path, header: &TraceHeader) -> Result<Self> {
        let beyond = |bank: &TracedBank| bank.experts > EXPERTS_MAX || bank.expert_bytes > EXPERT_BYTES_MAX;
        if header.banks.len() as u64 > BANKS_MAX || header.banks.iter().any(beyond) {
            return Err(LoadError::Unsupported {
                path: path.to_owned(),
                feature: "a routing trace of so large a model".to_owned(),
                hint: format!(
                    "at most {BANKS_MAX} banks of {EXPERTS_MAX} experts of {EXPERT_BYTES_MAX} bytes"
                ),
            });
        }
        let name = traceable(&header.model);
        let mut bytes = MAGIC.to_vec();
        VERSION.put_le(&mut bytes);
        (name.len() as u64).put_le(&mut bytes);
        bytes.extend_from_slice(name.as_bytes());
        (header.banks.len() as u64).put_le(&mut bytes);
        for bank in &header.banks {
            bank.layer.put_le(&mut bytes);
            bank.bank.put_le(&mut bytes);
            bank.experts.put_le(&mut bytes);
            bank.expert_bytes.put_le(&mut bytes);
        }
        let mut file = PartialFile::create(path, &[])?;
        file.write(&bytes)?;
        Ok(Self { file, failed: None, banks: header.banks.clone(), events: 0, bytes })
    }

    /// Adds an event: the choices of each token of a pass. After a failed write it does nothing, and
    /// [`Self::finish`] returns the error.
    ///
    /// # Panics
    /// If the bank has no such expert, or there is no token or more than the format allows.
    pub fn event<'i>(&mut self, bank: usize, tokens: impl ExactSizeIterator<Item = &'i [u32]>) {
        let experts = self.banks[bank].experts;
        assert!((1..=TOKENS_MAX as usize).contains(&tokens.len()), "a chunk of {} tokens", tokens.len());
        self.bytes.clear();
        (bank as u16).put_le(&mut self.bytes);
        (tokens.len() as u32).put_le(&mut self.bytes);
        for ids in tokens {
            (ids.len() as u16).put_le(&mut self.bytes);
            for &id in ids {
                assert!(id < experts, "expert {id} of {experts}");
                (id as u16).put_le(&mut self.bytes);
            }
        }
        if self.failed.is_none() {
            self.events += 1;
            self.failed = self.file.write(&self.bytes).err();
        }
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// [`LoadError::Io`] of the first write that failed. The file does not exist then.
    pub fn finish(self) -> Result<()> {
        let Self { mut file, failed, events, mut bytes, .. } = self;
        if let Some(error) = failed {
            return Err(error);
        }
        bytes.clear();
        END.put_le(&mut bytes);
        events.put_le(&mut bytes);
        file.write(&bytes)?;
        file.commit()
    }
}

impl Observer for TraceWriter {
    fn routed(&mut self, bank: BankKey, routing: &Routing) {
        let number = self
            .banks
            .iter()
            .position(|known| (known.layer as usize, known.bank as usize) == (bank.layer, bank.bank));
        let number = number.expect("the header has every bank of the model");
        self.event(number, (0..routing.tokens()).map(|token| routing.token(token).0));
    }
}

/// A name that the reader accepts: not empty, not too long, without control characters.
fn traceable(name: &str) -> String {
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut name: String = name.chars().map(shown).collect();
    name.truncate(name.floor_char_boundary(NAME_MAX));
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> TraceHeader {
        let moe = |experts| TracedBank { layer: 7, bank: 0, experts, expert_bytes: 1000 };
        TraceHeader { model: "m\u{1b}.gguf".to_owned(), banks: vec![moe(4), TracedBank::default(), moe(300)] }
    }

    /// A trace with a pass of two tokens, one of them without experts, and passes of one token: bytes and
    /// parsed trace.
    fn written() -> (Vec<u8>, Trace) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.trace");
        let mut writer = TraceWriter::create(&path, &header()).unwrap();
        writer.event(0, [&[3, 1][..], &[]].into_iter());
        writer.event(2, [&[299, 0, 7][..], &[7]].into_iter());
        writer.event(2, [&[5][..]].into_iter());
        assert!(!path.exists(), "unfinished");
        writer.finish().unwrap();
        (std::fs::read(&path).unwrap(), Trace::open(&path).unwrap())
    }

    #[test]
    fn a_written_trace_is_read_back() {
        let (_, trace) = written();
        assert_eq!(trace.header().banks, header().banks);
        assert_eq!(trace.header().model, "m\u{fffd}.gguf");
        let events: Vec<(usize, Vec<&[u16]>)> =
            trace.events().map(|e| (e.bank, (0..e.tokens()).map(|t| e.token(t)).collect())).collect();
        let expected: [(usize, Vec<&[u16]>); 3] =
            [(0, vec![&[3, 1], &[]]), (2, vec![&[299, 0, 7], &[7]]), (2, vec![&[5]])];
        assert_eq!(events, expected);
        let choices: Vec<&[u16]> = trace.events().map(|e| e.choices()).collect();
        assert_eq!(choices, [&[3, 1][..], &[299, 0, 7, 7], &[5]]);
    }

    #[test]
    fn a_dropped_writer_removes_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = TraceWriter::create(&folder.path().join("t.trace"), &header()).unwrap();
        writer.event(0, [&[0][..]].into_iter());
        drop(writer);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn models_larger_than_the_format_are_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        for bank in [(EXPERTS_MAX + 1, 1), (1, EXPERT_BYTES_MAX + 1)] {
            let banks = vec![TracedBank { experts: bank.0, expert_bytes: bank.1, ..TracedBank::default() }];
            let header = TraceHeader { model: "m".to_owned(), banks };
            let refused = TraceWriter::create(&folder.path().join("t"), &header);
            assert!(matches!(refused, Err(LoadError::Unsupported { .. })));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[track_caller]
    fn refused(bytes: &[u8], field: &str, at: u64) -> Fault {
        match Trace::parse(Path::new("t"), bytes) {
            Err(LoadError::Malformed { field: found, offset, fault, .. }) => {
                assert_eq!((found.as_str(), offset), (field, Some(at)), "{fault}");
                fault
            }
            other => panic!("{other:?}"),
        }
    }

    /// `bytes` with `new` at `at`.
    fn with(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    }

    // Offsets in `written`: magic 0, version 8, name 12 (9 bytes long, from 20), banks 29, the three
    // of them from 37 on, 20 bytes each; events at 97 (2 + 4 + 6 + 2), 111 (2 + 4 + 8 + 4) and 129 (2 + 4 +
    // 4); the end at 139.
    const BANKS: usize = 29;
    const FIRST: usize = 97;
    const SECOND: usize = 111;
    const LAST: usize = 139;

    #[test]
    fn a_truncated_trace_is_refused() {
        let (bytes, _) = written();
        assert_eq!(bytes.len(), LAST + 10);
        for len in 0..bytes.len() {
            assert!(Trace::parse(Path::new("t"), &bytes[..len]).is_err(), "{len} bytes");
        }
        let fault = refused(&bytes[..bytes.len() - 1], "number of events", LAST as u64 + 2);
        assert_eq!(fault, Fault::Truncated { need: 8, have: 7 });
    }

    #[test]
    fn damaged_traces_are_refused_with_field_and_offset() {
        let (bytes, _) = written();
        let range = |found: &str, low, high| Fault::OutOfRange { found: found.to_owned(), low, high };
        assert!(matches!(refused(&with(&bytes, 0, b"GGUF"), "magic", 0), Fault::BadMagic { .. }));
        assert!(matches!(refused(&with(&bytes, 8, &[9]), "version", 8), Fault::Version { found: 9, .. }));
        let control = with(&bytes, 20, b"\x1b");
        assert_eq!(refused(&control, "model \\u{1b}\\u{fffd}.gguf", 12), Fault::ControlCharacters);

        let huge = with(&bytes, BANKS, &u64::MAX.to_le_bytes());
        assert_eq!(refused(&huge, "banks", BANKS as u64), range("18446744073709551615", 0, BANKS_MAX));
        let many = with(&bytes, BANKS, &4_000_u64.to_le_bytes());
        assert!(matches!(refused(&many, "banks", BANKS as u64), Fault::Truncated { need: 80_000, .. }));
        let experts = with(&bytes, BANKS + 16, &u32::MAX.to_le_bytes());
        assert_eq!(
            refused(&experts, "bank 0 experts", BANKS as u64 + 16),
            range("4294967295", 0, EXPERTS_MAX.into())
        );
        let expert_bytes = with(&bytes, BANKS + 20, &u64::MAX.to_le_bytes());
        assert!(matches!(
            refused(&expert_bytes, "bank 0 expert bytes", BANKS as u64 + 20),
            Fault::OutOfRange { .. }
        ));

        for bank in [1, 3] {
            let fault = refused(&with(&bytes, FIRST, &[bank, 0]), "event 0 bank", FIRST as u64);
            assert!(matches!(fault, Fault::BadNumber { .. }));
        }
        let none = with(&bytes, FIRST + 2, &[0; 4]);
        assert!(matches!(refused(&none, "event 0 tokens", FIRST as u64 + 2), Fault::OutOfRange { .. }));
        let most = with(&bytes, FIRST + 2, &[255; 4]);
        assert!(matches!(refused(&most, "event 0 tokens", FIRST as u64 + 2), Fault::OutOfRange { .. }));
        let choices = with(&bytes, FIRST + 6, &[5, 0]);
        assert_eq!(refused(&choices, "event 0 choices", FIRST as u64 + 6), range("5", 0, 4));
        let beyond = with(&bytes, FIRST + 10, &[4, 0]);
        assert_eq!(refused(&beyond, "event 0 expert", FIRST as u64 + 10), range("4", 0, 3));
        let twice = with(&bytes, SECOND + 10, &299_u16.to_le_bytes());
        assert_eq!(refused(&twice, "event 1 expert", SECOND as u64 + 10), Fault::Duplicate);

        let fewer = with(&bytes, LAST + 2, &[2]);
        assert!(matches!(refused(&fewer, "number of events", LAST as u64 + 2), Fault::Contradiction { .. }));
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(refused(&longer, "end", LAST as u64 + 10), Fault::Hole { bytes: 1 });
    }
}
