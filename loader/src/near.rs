//! Names that differ in few letters, for messages about names that do not exist. It must not know what is
//! named.

/// Letters to insert, remove or replace to make one word of another (Levenshtein).
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        for (above, other) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = *above;
            left = replaced.min(diagonal + 1).min(left + 1);
            *above = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// At most three of `names` that are near `name`: those that differ in few letters or share their beginning,
/// the nearest first.
pub fn near<'n>(name: &str, names: &[&'n str]) -> Vec<&'n str> {
    const SHOWN: usize = 3;
    let shared = |other: &str| name.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
    let most = 1 + name.len() / 4;
    let distances = names.iter().map(|&other| (distance(name, other), other));
    let mut found: Vec<_> =
        distances.filter(|(distance, other)| *distance <= most || shared(other) >= 4).collect();
    found.sort_unstable();
    found.into_iter().take(SHOWN).map(|(_, other)| other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_changes() {
        let pairs = [("a", ""), ("kitten", "sitting"), ("ab", "ab"), ("/help", "/hlep"), ("", "abc")];
        assert_eq!(pairs.map(|(a, b)| distance(a, b)), [1, 3, 0, 2, 3]);
    }

    #[test]
    fn near_names_come_first() {
        let names = ["qwen3", "qwen35", "llama", "qwen3next", "gemma3"];
        assert_eq!(near("qwen4exp", &names), ["qwen3next", "qwen3", "qwen35"]);
        assert_eq!(near("lama", &names), ["llama"]);
        assert_eq!(near("abacus", &names), [""; 0]);
    }
}
