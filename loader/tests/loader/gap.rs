//! Headers of which the vocabulary is not read: found with few reads, and never another one than that which
//! reading everything finds.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

use std::convert::Infallible;
use std::path::Path;

use moelten_loader::container::gguf::Header;
use moelten_loader::container::gguf::gap::{Beginning, Gapped};
use moelten_loader::text::vocabulary_lists;

use crate::common::{GgufBytes, string};

const FIRST: usize = 256 << 10;
const TENSORS: u64 = 420;

fn noise(bytes: u64, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 32) as u32
    };
    (0..bytes / 4).flat_map(|_| next().to_le_bytes()).collect()
}

/// Texts as a vocabulary has them: later ones are longer.
fn texts(count: usize, text: impl Fn(usize) -> String) -> Vec<u8> {
    let all: Vec<u8> = (0..count).flat_map(|index| string(text(index).as_bytes())).collect();
    GgufBytes::array(8, count as u64, &all)
}

fn token(index: usize) -> String {
    let hash = index.wrapping_mul(0x9e37_79b9) >> 7;
    format!("Ġ{}", &format!("{hash:09x}abcdef")[..3 + index / 40_000 + hash % 4])
}

fn merge(index: usize) -> String {
    format!("{} {index:x}", token(index))
}

/// What goes into a file.
#[derive(Clone)]
struct Case {
    tokens: usize,
    merges: usize,
    /// Keys between the lists, behind them, and the last merge.
    between: Vec<(&'static str, u32)>,
    behind: Vec<(&'static str, u32)>,
    last_merge: Option<Vec<u8>>,
    scores: bool,
}

impl Case {
    fn usual() -> Self {
        let behind = vec![("tokenizer.ggml.eos_token_id", 7), ("general.file_type", 15)];
        Self { tokens: 151_936, merges: 151_387, between: vec![], behind, last_merge: None, scores: false }
    }

    fn file(&self) -> GgufBytes {
        let list = |file: GgufBytes, key: &str, list: Vec<u8>| file.kv(key.as_bytes(), 9, &list);
        let numbers = |file: GgufBytes, keys: &[(&str, u32)]| {
            keys.iter().fold(file, |file, (key, value)| file.kv(key.as_bytes(), 4, &value.to_le_bytes()))
        };
        let mut file = GgufBytes::new().text("general.architecture", "llama");
        file = numbers(file, &[("llama.block_count", 2)]).text("tokenizer.ggml.pre", "qwen2");
        file = file.text("tokenizer.ggml.model", if self.scores { "llama" } else { "gpt2" });
        file = list(file, "tokenizer.ggml.tokens", texts(self.tokens, token));
        file = numbers(file, &self.between);
        if self.scores {
            let scores: Vec<u8> = (0..self.tokens).flat_map(|n| (-(n as f32)).to_le_bytes()).collect();
            let scores = GgufBytes::array(6, self.tokens as u64, &scores);
            file = list(file, "tokenizer.ggml.scores", scores);
        }
        let types: Vec<u8> =
            (0..self.tokens).flat_map(|n| (1 + u32::from(n % 97 == 0) * 2).to_le_bytes()).collect();
        file = list(file, "tokenizer.ggml.token_type", GgufBytes::array(5, self.tokens as u64, &types));
        if self.merges > 0 {
            let mut merges = texts(self.merges, merge);
            if let Some(last) = &self.last_merge {
                merges[4..12].copy_from_slice(&(self.merges as u64 + 1).to_le_bytes());
                merges.extend(string(last));
            }
            file = list(file, "tokenizer.ggml.merges", merges);
        }
        file = file.text("tokenizer.chat_template", &"{%- if messages -%}\n".repeat(400));
        let mut file = numbers(file, &self.behind);
        let mut offset = 0;
        for index in 0..TENSORS / 2 {
            file = file.tensor(&format!("blk.{index}.attn_norm.weight"), &[512], 0, offset);
            offset += 2048;
            file = file.tensor(&format!("blk.{index}.ffn_up.weight"), &[256, 64], 1, offset);
            offset += 32_768;
        }
        file.data(&noise(offset, 5))
    }

    fn build(&self) -> Vec<u8> {
        self.file().build()
    }
}

/// What was read, and what was found in it.
struct Outcome {
    /// Calls, and bytes of all of them and of the first bytes.
    calls: usize,
    bytes: u64,
    found: Option<Gapped>,
}

fn find(file: &[u8], file_len: u64) -> Outcome {
    let path = Path::new("m.gguf");
    let first = &file[..FIRST.min(file.len())];
    let mut outcome = Outcome { calls: 1, bytes: first.len() as u64, found: None };
    let Some(beginning) = Beginning::of(path, first, file_len) else { return outcome };
    let found = beginning.find(|places| {
        outcome.calls += 1;
        let part = |&(from, bytes): &(u64, u64)| {
            let from = (from as usize).min(file.len());
            file[from..(from + bytes as usize).min(file.len())].to_vec()
        };
        let parts: Vec<_> = places.iter().map(part).collect();
        outcome.bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        Ok::<_, Infallible>(parts)
    });
    let Ok(found) = found;
    // As a reader does it: what cannot be read after all, or hides other keys, does not count.
    outcome.found = found.filter(|found| {
        let header = Header::parse_prefix(path, &joined(found), file_len);
        header.is_ok_and(|header| vocabulary_lists(&header.metadata).is_some_and(|lists| found.hides(lists)))
    });
    outcome
}

fn joined(found: &Gapped) -> Vec<u8> {
    let mut bytes = found.head.clone();
    bytes.resize(found.tail_at as usize, 0);
    bytes.extend(&found.tail);
    bytes
}

/// What is found is what reading everything finds, but for the lists.
fn same(file: &[u8], found: &Gapped) {
    let (path, len) = (Path::new("m.gguf"), file.len() as u64);
    let whole = Header::parse(path, file).unwrap();
    let part = Header::parse_prefix(path, &joined(found), len).unwrap();
    assert_eq!(part.tensors, whole.tensors);
    assert_eq!(part.alignment, whole.alignment);
    for (key, value) in whole.metadata.iter() {
        let vocabulary = vocabulary_lists(&whole.metadata).unwrap().contains(&key);
        assert!(vocabulary || part.metadata.get(key) == Some(value), "{key}");
    }
    assert!(part.metadata.iter().all(|(key, _)| whole.metadata.get(key).is_some()));
}

#[test]
fn tensors_behind_a_large_vocabulary_take_three_reads() {
    let gemma = Case { tokens: 262_144, merges: 0, scores: true, ..Case::usual() };
    let oss = Case { tokens: 201_088, merges: 446_189, ..Case::usual() };
    let llama = Case { tokens: 128_256, merges: 280_147, ..Case::usual() };
    for (name, case) in [("qwen", Case::usual()), ("gemma", gemma), ("gpt-oss", oss), ("llama", llama)] {
        let file = case.build();
        let Outcome { calls, bytes, found } = find(&file, file.len() as u64);
        let found = found.unwrap_or_else(|| panic!("{name}: not found"));
        same(&file, &found);
        println!("{name}: {calls} reads, {bytes} bytes, {} skipped", found.skipped);
        assert!(calls == 3 && bytes < 2_000_000, "{name}: {calls} reads, {bytes} bytes");
        assert!(found.skipped > 2_000_000 && found.hidden < 3, "{name}: {found:?}");
    }
}

#[test]
fn a_part_without_tensors_ends_with_its_header() {
    let behind = vec![("split.no", 0), ("split.count", 3)];
    let mut file = Case { behind, ..Case::usual() }.build();
    let header = Header::parse(Path::new("m.gguf"), &file).unwrap();
    let tensors: u64 = header.tensors.iter().map(|tensor| tensor.bytes).sum();
    file.truncate(file.len() - tensors as usize);
    // The records go too.
    let records = string(b"blk.0.attn_norm.weight");
    let at = file.windows(records.len()).rposition(|found| found == records).unwrap();
    file.truncate(at);
    file[8..16].copy_from_slice(&0_u64.to_le_bytes());
    for padding in [0, file.len().next_multiple_of(32) - file.len()] {
        file.resize(file.len() + padding, 0);
        let Outcome { calls, bytes, found } = find(&file, file.len() as u64);
        same(&file, &found.unwrap());
        assert!(calls == 2 && bytes < 400_000);
    }
}

/// A sequence of records that fits the file as well as the true one does, inside a text.
#[test]
fn tensors_inside_a_text_are_not_taken_for_the_true_ones() {
    let mut case = Case::usual();
    case.last_merge = Some(vec![b'x'; 40_000]);
    let sound = case.build();
    same(&sound, &find(&sound, sound.len() as u64).found.unwrap());
    let start = sound.windows(64).position(|window| window == [b'x'; 64]).unwrap();
    let records = string(b"blk.0.attn_norm.weight");
    let first = sound.windows(records.len()).rposition(|found| found == records).unwrap();
    let header = Header::parse(Path::new("m.gguf"), &sound).unwrap();
    let data = header.tensors[0].offset as usize;
    let length = header.tensors.iter().map(|tensor| tensor.bytes as usize).sum::<usize>();
    assert!(data + length == sound.len());
    let records = &sound[first..header_end(&sound, first)];
    let own_data = |start: usize| (start + records.len()).next_multiple_of(32);
    // A row of the last tensor has 64 values of two bytes.
    let start = (start..).find(|&start| (data - own_data(start)).is_multiple_of(128)).unwrap();
    let rows = (data - own_data(start)) / 128;
    for more in [rows, 0] {
        let mut fake = records.to_vec();
        let last = fake.len() - 28;
        fake[last..last + 8].copy_from_slice(&(256 + more as u64).to_le_bytes());
        // The last tensor of the first one is larger by as much as it lies before the true one.
        assert_eq!(own_data(start) + length + 128 * more == sound.len(), more == rows);
        let mut file = sound.clone();
        file[start..start + fake.len()].copy_from_slice(&fake);
        file[start + fake.len()..own_data(start)].fill(0);
        same(&file, &find(&file, file.len() as u64).found.unwrap());
    }
}

/// Where the records that begin at `first` end.
fn header_end(file: &[u8], first: usize) -> usize {
    let mut at = first;
    for _ in 0..TENSORS {
        let name = u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
        let dims = u32::from_le_bytes(file[at + 8 + name..at + 12 + name].try_into().unwrap()) as usize;
        at += 8 + name + 4 + 8 * dims + 4 + 8;
    }
    at
}

#[test]
fn an_entry_inside_a_text_is_not_read() {
    let mut case = Case::usual();
    let entry =
        [string(b"llama.context_length"), 4_u32.to_le_bytes().to_vec(), 77_u32.to_le_bytes().to_vec()];
    case.last_merge = Some([b"a b".to_vec(), entry.concat()].concat());
    let file = case.build();
    assert_eq!(find(&file, file.len() as u64).found, None);
}

#[test]
fn keys_in_the_gap_are_read_after_all() {
    let mut case = Case::usual();
    case.between = vec![("llama.expert_used_count", 2), ("llama.context_length", 512)];
    let file = case.build();
    assert_eq!(find(&file, file.len() as u64).found, None);
}

#[test]
fn what_does_not_fit_to_the_byte_is_read_as_a_whole() {
    let case = Case::usual();
    let file = case.build();
    let len = file.len() as u64;
    // A length that lies, a file that was cut, counts that lie.
    for wrong in [len + 1000, len - 1000, len + 1, len / 2] {
        assert_eq!(find(&file, wrong).found, None, "{wrong}");
    }
    for cut in [file.len() - 1, file.len() / 2, 3 << 20, FIRST, 100] {
        assert_eq!(find(&file[..cut], cut as u64).found, None, "{cut}");
    }
    for (at, change) in [(8, 1), (8, u64::MAX), (8, 1 << 40), (16, 1), (16, u64::MAX), (16, 1 << 40)] {
        let mut lying = file.clone();
        let count = u64::from_le_bytes(lying[at..at + 8].try_into().unwrap());
        lying[at..at + 8].copy_from_slice(&count.wrapping_add(change).to_le_bytes());
        let whole = Header::parse(Path::new("m.gguf"), &lying);
        let found = find(&lying, len).found;
        assert!(found.is_none() || whole.is_ok(), "{at} {change}");
    }
    let mut none = file;
    none[8..16].copy_from_slice(&0_u64.to_le_bytes());
    assert_eq!(find(&none, len).found, None);
}

/// Damage anywhere behind the vocabulary: what is found is sound, or nothing is.
#[test]
fn damage_is_never_taken_for_a_header() {
    let file = Case { tokens: 60_000, merges: 60_000, ..Case::usual() }.build();
    let header = Header::parse(Path::new("m.gguf"), &file).unwrap();
    let data = header.tensors[0].offset as usize;
    let mut state = 11_u64;
    let mut found_some = 0;
    for round in 0..60 {
        let mut damaged = file.clone();
        for _ in 0..1 + round % 3 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let at = data - 1 - (state >> 33) as usize % 60_000;
            damaged[at] = (state >> 20) as u8;
        }
        let len = damaged.len() as u64;
        if let Some(found) = find(&damaged, len).found {
            found_some += 1;
            same(&damaged, &found);
        }
    }
    println!("{found_some} of 60 were still sound");
    assert!(found_some > 0);
}
