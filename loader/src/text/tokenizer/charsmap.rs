//! SentencePiece's precompiled character maps: a double-array trie (Aoe 1989, in the layout of darts-clone)
//! from byte sequences to offsets into a blob of NUL-terminated replacements.
//!
//! The library follows the trie without bounds checks, so every reachable node is checked here first. It must
//! not know vocabularies.

use serde_json::Value;

/// Largest map, in bytes. Real maps have 0.3 MB.
const BYTES_MAX: usize = 4 << 20;
/// Longest replacement, in bytes; bounds the growth of a text.
const REPLACEMENT_BYTES_MAX: usize = 256;

/// Fails unless every path through `map` stays inside it.
pub(super) fn check(map: &[u8]) -> Result<(), String> {
    let wrong = |problem: &str| Err(format!("is no character map: {problem}"));
    if map.len() > BYTES_MAX {
        return wrong("it is too long");
    }
    let Some((size, rest)) = map.split_first_chunk::<4>() else { return wrong("it has no header") };
    let size = u32::from_le_bytes(*size) as usize;
    let Some((trie, replacements)) = rest.split_at_checked(size) else {
        return wrong("its trie is cut short");
    };
    if size == 0 || !size.is_multiple_of(4) {
        return wrong("its trie has no whole number of units");
    }
    let Ok(replacements) = std::str::from_utf8(replacements) else {
        return wrong("a replacement is not UTF-8");
    };
    if replacements.split('\0').any(|text| text.len() > REPLACEMENT_BYTES_MAX) {
        return wrong("a replacement is too long");
    }
    let units: Vec<u32> =
        trie.chunks_exact(4).map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]])).collect();
    let offset = |unit: u32| ((unit >> 10) as usize) << ((unit & (1 << 9)) >> 6);
    let mut seen = vec![false; units.len()];
    let mut open = vec![offset(units[0])];
    while let Some(node) = open.pop() {
        // The index of a child is the node's, XORed with a byte.
        if node | 0xff >= units.len() {
            return wrong("its trie leaves the file");
        }
        if std::mem::replace(&mut seen[node], true) {
            continue;
        }
        for byte in 1..=0xff_u32 {
            let place = node ^ byte as usize;
            let unit = units[place];
            if unit & (1 << 31 | 0xff) != byte {
                continue;
            }
            let child = place ^ offset(unit);
            if unit >> 8 & 1 == 1 {
                let Some(leaf) = units.get(child) else { return wrong("its trie leaves the file") };
                if !replacements.is_char_boundary((leaf & ((1 << 31) - 1)) as usize) {
                    return wrong("a replacement starts nowhere");
                }
            }
            open.push(child);
        }
    }
    Ok(())
}

/// Checks every map in a normaliser's description.
pub(super) fn check_description(description: &Value) -> Result<(), String> {
    match description {
        Value::Object(members) => members.iter().try_for_each(|(name, value)| match value {
            Value::String(text) if name == "precompiled_charsmap" => {
                check(&base64(text).ok_or("is no character map: it is not base64")?)
            }
            other => check_description(other),
        }),
        Value::Array(items) => items.iter().try_for_each(check_description),
        _ => Ok(()),
    }
}

/// Decodes standard base64 (RFC 4648, section 4).
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn base64_decodes() {
        assert_eq!(super::base64("aGVsbG8=").unwrap(), b"hello");
        assert_eq!(super::base64("/+8A").unwrap(), [0xff, 0xef, 0]);
        assert_eq!(super::base64("a*"), None);
    }

    /// A trie that maps "a" to the replacement at `target`, whose node is `units` long.
    fn map(units: usize, target: u32, replacements: &[u8]) -> Vec<u8> {
        let mut trie = vec![0_u32; units];
        // The root's children lie in the block at 256, the leaf of "a" in the block at 512.
        let unit = |offset: u32, rest: u32| offset << 10 | rest;
        let place = |at: usize, trie: &mut Vec<u32>, unit: u32| trie.get_mut(at).map(|slot| *slot = unit);
        place(0, &mut trie, unit(256, 0));
        let child = 256 ^ usize::from(b'a');
        place(child, &mut trie, unit(512 ^ child as u32, 1 << 8 | u32::from(b'a')));
        place(512, &mut trie, 1 << 31 | target);
        let mut bytes = (4 * units as u32).to_le_bytes().to_vec();
        bytes.extend(trie.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(replacements);
        bytes
    }

    #[test]
    fn only_sound_maps_pass() {
        let sound = map(768, 2, "x\0é\0".as_bytes());
        assert_eq!(check(&sound), Ok(()));
        let library = tokenizers::normalizers::Precompiled::from(&sound).unwrap();
        assert_eq!((library.transform("a"), library.transform("b")), (Some("é"), None));

        let long = [&[b'x'; 300][..], b"\0"].concat();
        for (what, bytes) in [
            ("empty", Vec::new()),
            ("a size beyond the file", vec![0xff; 8]),
            ("a cut", sound[..100].to_vec()),
            ("a short trie", map(600, 2, b"x\0y\0")),
            ("children beyond the trie", map(300, 2, b"x\0y\0")),
            ("a replacement inside of a character", map(768, 3, "x\0é\0".as_bytes())),
            ("a replacement beyond the blob", map(768, 99, b"x\0y\0")),
            ("a long replacement", map(768, 0, &long)),
            ("no UTF-8", map(768, 0, &[0xff, 0])),
        ] {
            assert!(check(&bytes).is_err(), "{what}");
        }
    }
}
