//! What a small piece from somewhere in a GGUF file is a part of, by its look. A wrong answer costs time and
//! nothing else. It must not know where the piece was.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use crate::io::reader::Scalar;

/// Texts in a row that are no accident, and where the first may begin at most.
const TEXTS: usize = 12;
const FIRST: usize = 1 << 10;
/// The longest text of a list.
const LONGEST: usize = 1 << 10;
/// Numbers that are looked at.
const NUMBERS: usize = 256;
/// The highest type of a token, and some more.
const TYPE_MAX: u32 = 15;
/// Ends of names of tensors, and how many of them are no accident.
const ENDS: [&[u8]; 2] = [b".weight", b".bias"];
const RECORDS: usize = 3;

/// What a piece is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A list of texts.
    Texts,
    /// A list of numbers, such as types or scores of tokens.
    Numbers,
    /// A long text.
    Text,
    /// Records of tensors.
    Records,
    /// Values of tensors, or unknown.
    Other,
}

impl Look {
    /// The kind of a piece, by its beginning.
    pub fn of(piece: &[u8]) -> Self {
        if records(piece) {
            return Self::Records;
        }
        if (0..piece.len().min(FIRST)).any(|start| texts(piece, start)) {
            return Self::Texts;
        }
        if (0..4).any(|start| numbers(piece.get(start..).unwrap_or_default())) {
            return Self::Numbers;
        }
        if is_text(piece) { Self::Text } else { Self::Other }
    }

    /// Whether entries behind such a piece can be read without what is before it.
    pub fn is_list(self) -> bool {
        matches!(self, Self::Texts | Self::Numbers)
    }
}

/// Whether names of tensors are there, each with a number of dimensions behind it.
fn records(piece: &[u8]) -> bool {
    let ends = ENDS.iter().flat_map(|end| {
        piece.windows(end.len() + 4).filter(move |found| {
            found
                .strip_prefix(*end)
                .and_then(<u32 as Scalar>::from_le)
                .is_some_and(|dims| (1..=4).contains(&dims))
        })
    });
    ends.take(RECORDS).count() == RECORDS
}

/// Whether texts follow one another from `start` on.
fn texts(piece: &[u8], start: usize) -> bool {
    let mut at = start;
    (0..TEXTS).all(|_| match next_text(piece, at, LONGEST) {
        Some((text, end)) if !text.is_empty() && !text.contains(&0) => {
            at = end;
            true
        }
        _ => false,
    })
}

/// A text with its length before it, and where it ends.
pub fn next_text(bytes: &[u8], at: usize, longest: usize) -> Option<(&[u8], usize)> {
    let start = at.checked_add(size_of::<u64>())?;
    let len = usize::try_from(<u64 as Scalar>::from_le(bytes.get(at..start)?)?)
        .ok()
        .filter(|len| *len <= longest)?;
    Some((bytes.get(start..start + len)?, start + len))
}

/// Whether these are types, small numbers, or scores, which do not grow.
fn numbers(piece: &[u8]) -> bool {
    let each = || piece.chunks_exact(4).take(NUMBERS);
    if each().len() < NUMBERS {
        return false;
    }
    if each().filter_map(<u32 as Scalar>::from_le).all(|number| (1..=TYPE_MAX).contains(&number)) {
        return true;
    }
    let scores: Vec<f32> = each().filter_map(<f32 as Scalar>::from_le).collect();
    let lower = scores.windows(2).filter(|pair| matches!(pair, [one, next] if one >= next)).count();
    let negative = scores.last().is_some_and(|score| *score < 0.0);
    // Numbers below the normal ones come from other data.
    let sound = scores.iter().all(|score| *score == 0.0 || score.is_normal());
    negative && sound && lower * 20 >= NUMBERS * 19
}

/// Whether it is a text, whose first and last characters may be cut.
fn is_text(piece: &[u8]) -> bool {
    let cut = piece.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
    let rest = piece.get(cut..).unwrap_or_default();
    let sound = match std::str::from_utf8(rest) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(rest.get(..error.valid_up_to()).unwrap_or_default()).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !sound.is_empty() && !sound.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test fails where it stands")]
mod tests {
    use super::*;

    fn noise(count: u32) -> Vec<u8> {
        (0..count).flat_map(|n| n.wrapping_mul(0x9e37_79b9).rotate_left(n % 31).to_le_bytes()).collect()
    }

    #[test]
    fn parts_of_headers_are_known_and_values_are_not() {
        let list: Vec<u8> = (0..300_u64)
            .flat_map(|n| {
                let text = format!("Ġ{n}");
                [&text.len().to_le_bytes(), text.as_bytes()].concat()
            })
            .collect();
        let types: Vec<u8> = (0..600_u32).flat_map(|n| (1 + n % 50 / 45).to_le_bytes()).collect();
        let scores: Vec<u8> = (0..600_u16).flat_map(|n| (-f32::from(n)).to_le_bytes()).collect();
        let record =
            |n: u32| [b"blk.attn.weight", &2_u32.to_le_bytes()[..], &n.to_le_bytes(), &[9; 24]].concat();
        let records: Vec<u8> = (0..60).flat_map(record).collect();
        let words = "{%- if messages[0]['role'] == 'systém' -%}\n".repeat(60);
        // Lists are known wherever they are cut.
        for start in 0..16 {
            assert_eq!(Look::of(&list[start..]), Look::Texts, "{start}");
            assert_eq!(Look::of(&types[start..]), Look::Numbers, "{start}");
            assert_eq!(Look::of(&scores[4 + start..]), Look::Numbers, "{start}");
            assert_eq!(Look::of(&records[start..]), Look::Records, "{start}");
        }
        assert_eq!(Look::of(&words.as_bytes()[34..]), Look::Text);
        let ones: Vec<u8> = (0..600).flat_map(|_| 1.0_f32.to_le_bytes()).collect();
        for values in [noise(1000), vec![0; 4000], ones, Vec::new()] {
            assert_eq!(Look::of(&values), Look::Other, "{:?}", values.get(..8));
        }
    }
}
