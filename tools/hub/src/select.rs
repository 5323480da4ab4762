//! Which files of a repository make a model: the quantisations of GGUF files with all their parts, or a
//! folder of safetensors. It judges by names alone and must not read a file.

use std::collections::BTreeMap;

use crate::error::HubError;
use crate::name::RepoId;

/// The quantisation without a wish, as llama.cpp chooses it.
const DEFAULT: &str = "Q4_K_M";

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path in the repository, parted by `/`.
    pub path: String,
    /// Its size in bytes; 0 where only the name is known.
    pub bytes: u64,
    /// SHA-256 for files in large file storage, otherwise git's SHA-1 of a blob, in hexadecimal digits.
    pub checksum: String,
}

/// GGUF files that are one model: one file, or all parts of a split one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Its quantisation as the file name says it, in capitals; the name itself if it says none.
    pub quant: String,
    /// Its files, the first part first.
    pub files: Vec<RemoteFile>,
    /// Parts as the names count them; more than there are files if some are missing.
    pub parts: usize,
    stem: String,
}

/// What to download, and what to open of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// All parts of a GGUF file, or everything of a folder.
    pub files: Vec<RemoteFile>,
    /// Path in the repository of the file to open; empty for the folder itself.
    pub open: String,
    /// The quantisation that was chosen.
    pub quant: Option<String>,
    /// Whether the choice was made here, not by the name.
    pub by_default: bool,
    /// Whether all parts are there.
    pub complete: bool,
}

impl Variant {
    /// Size of all files together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    fn is(&self, quant: &str) -> bool {
        let stem = self.stem.to_uppercase();
        let quant = quant.to_uppercase();
        let before = stem.strip_suffix(&quant).and_then(|before| before.chars().next_back());
        self.quant == quant || before.is_some_and(|before| matches!(before, '-' | '.' | '_'))
    }

    fn choice(&self, by_default: bool) -> Choice {
        Choice {
            files: self.files.clone(),
            open: self.files.first().map_or_else(String::new, |file| file.path.clone()),
            quant: Some(self.quant.clone()),
            by_default,
            complete: self.files.len() == self.parts,
        }
    }
}

/// The models in GGUF files, smallest first. Projectors of images and importance files are none.
pub fn variants(files: &[RemoteFile]) -> Vec<Variant> {
    let mut found: BTreeMap<String, Variant> = BTreeMap::new();
    for file in files {
        let Some(stem) = file.path.strip_suffix(".gguf") else { continue };
        let name = stem.rsplit('/').next().unwrap_or(stem).to_lowercase();
        if name.contains("mmproj") || name.contains("imatrix") {
            continue;
        }
        let (stem, parts) = part_of(stem).map_or((stem, 1), |(stem, _, parts)| (stem, parts));
        let variant = found.entry(stem.to_owned()).or_insert_with(|| Variant {
            quant: quant_of(stem),
            files: Vec::new(),
            parts,
            stem: stem.to_owned(),
        });
        variant.files.push(file.clone());
    }
    let mut found: Vec<Variant> = found.into_values().collect();
    for variant in &mut found {
        variant.files.sort_by(|a, b| a.path.cmp(&b.path));
    }
    found.sort_by(|a, b| (a.bytes(), &a.stem).cmp(&(b.bytes(), &b.stem)));
    found
}

/// The files for a wish: a quantisation, a file, or neither. GGUF files come before a folder of safetensors.
///
/// # Errors
/// [`HubError::NoVariant`] if there is no such file or quantisation, [`HubError::NoModel`] if there is no
/// model.
pub fn choose(
    repo: &RepoId,
    files: &[RemoteFile],
    quant: Option<&str>,
    file: Option<&str>,
) -> Result<Choice, HubError> {
    let variants = variants(files);
    let missing = |wanted: String| {
        let quants: Vec<&str> = variants.iter().map(|variant| variant.quant.as_str()).collect();
        let folder = folder(files).map(|_| "a folder of safetensors without quantisations");
        let have =
            if quants.is_empty() { folder.unwrap_or("no model").to_owned() } else { quants.join(", ") };
        HubError::NoVariant { repo: repo.to_string(), wanted, have }
    };
    if let Some(file) = file {
        let of_file = |variant: &&Variant| variant.files.iter().any(|known| known.path == file);
        let variant = variants.iter().find(of_file).ok_or_else(|| missing(format!("model file {file:?}")))?;
        return Ok(variant.choice(false));
    }
    if let Some(quant) = quant {
        let exact = variants.iter().find(|variant| variant.quant.eq_ignore_ascii_case(quant));
        let variant = exact.or_else(|| variants.iter().find(|variant| variant.is(quant)));
        return Ok(variant.ok_or_else(|| missing(format!("quantisation {quant}")))?.choice(false));
    }
    let by_path = variants.iter().min_by(|a, b| a.stem.cmp(&b.stem));
    if let Some(variant) = variants.iter().find(|variant| variant.is(DEFAULT)).or(by_path) {
        return Ok(variant.choice(variants.len() > 1));
    }
    folder(files).ok_or_else(|| HubError::NoModel { repo: repo.to_string() })
}

/// A folder of safetensors: weights, and the small files beside them. Other folders below it are left out.
fn folder(files: &[RemoteFile]) -> Option<Choice> {
    let top = || files.iter().filter(|file| !file.path.contains('/'));
    let weights: Vec<_> = top()
        .filter(|file| file.path.ends_with(".safetensors") && !file.path.starts_with("consolidated"))
        .collect();
    if weights.is_empty() || !top().any(|file| file.path == "config.json") {
        return None;
    }
    let complete = weights.iter().all(|file| {
        part_of(file.path.trim_end_matches(".safetensors")).is_none_or(|(stem, _, parts)| {
            let of_same = |other: &&&RemoteFile| {
                part_of(other.path.trim_end_matches(".safetensors"))
                    .is_some_and(|(s, _, n)| s == stem && n == parts)
            };
            weights.iter().filter(of_same).count() == parts
        })
    });
    let small = |file: &&RemoteFile| {
        let name = file.path.as_str();
        let known = [".json", ".jinja", ".model", ".txt", ".tiktoken"].iter().any(|end| name.ends_with(end));
        known && !name.starts_with("consolidated") && !name.starts_with("params")
    };
    let files = weights.iter().copied().chain(top().filter(small)).cloned().collect();
    Some(Choice { files, open: String::new(), quant: None, by_default: false, complete })
}

/// Of `NAME-00001-of-00003`: the name, the part and the count.
fn part_of(stem: &str) -> Option<(&str, usize, usize)> {
    let (before, count) = stem.rsplit_once("-of-")?;
    let (name, part) = before.rsplit_once('-')?;
    let number = |text: &str| if text.len() == 5 { text.parse().ok() } else { None };
    let (part, count): (usize, usize) = (number(part)?, number(count)?);
    (part >= 1 && part <= count).then_some((name, part, count))
}

/// The quantisation at the end of a file's name, in capitals; without one the name itself.
fn quant_of(stem: &str) -> String {
    let name = stem.rsplit('/').next().unwrap_or(stem);
    let tail = name.rsplit(['-', '.']).next().unwrap_or(name).to_uppercase();
    let digits_after = |prefix: &str| {
        tail.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let is_quant =
        ["Q", "IQ", "TQ", "BF", "FP", "F", "MXFP", "NVFP"].iter().any(|prefix| digits_after(prefix));
    if is_quant { tail } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<RemoteFile> {
        let file = |(size, name): (usize, &&str)| RemoteFile {
            path: (*name).to_owned(),
            bytes: 100 + size as u64,
            checksum: String::new(),
        };
        names.iter().enumerate().map(file).collect()
    }

    fn repo() -> RepoId {
        RepoId::new("u/r").expect("sound")
    }

    fn open(names: &[&str], quant: Option<&str>) -> String {
        choose(&repo(), &files(names), quant, None)
            .map_or_else(|error| error.to_string(), |choice| choice.open)
    }

    #[test]
    fn the_default_is_q4_k_m_then_the_first_file() {
        let names = ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-F16.gguf", "README.md"];
        assert_eq!(open(&names, None), "m-Q4_K_M.gguf");
        assert_eq!(open(&["m.Q8_0.gguf", "m.Q5_0.gguf"], None), "m.Q5_0.gguf");
        let choice = choose(&repo(), &files(&names), None, None).expect("a model");
        assert!(choice.by_default && choice.complete && choice.quant.as_deref() == Some("Q4_K_M"));
        assert!(!choose(&repo(), &files(&["m-Q8_0.gguf"]), None, None).expect("a model").by_default);
    }

    #[test]
    fn quantisations_are_found_in_any_case_and_with_prefixes() {
        let names =
            ["m-Q4_K_M.gguf", "m-UD-Q4_K_XL.gguf", "m-IQ2_XXS.gguf", "m.bf16.gguf", "gpt-oss-20b-mxfp4.gguf"];
        for (quant, file) in [
            ("q4_k_m", names[0]),
            ("UD-Q4_K_XL", names[1]),
            ("Q4_K_XL", names[1]),
            ("iq2_xxs", names[2]),
            ("BF16", names[3]),
            ("MXFP4", names[4]),
        ] {
            assert_eq!(open(&names, Some(quant)), file, "{quant}");
        }
        let refused = open(&names, Some("K_M"));
        assert!(refused.contains("quantisation K_M") || refused == names[0], "{refused}");
        let refused = open(&names, Some("Q3_K"));
        assert!(refused.contains("no quantisation Q3_K") && refused.contains("IQ2_XXS"), "{refused}");
    }

    #[test]
    fn split_files_come_together() {
        let names = ["Q8_0/m-Q8_0-00002-of-00002.gguf", "Q8_0/m-Q8_0-00001-of-00002.gguf", "m-Q4_0.gguf"];
        let choice = choose(&repo(), &files(&names), Some("Q8_0"), None).expect("a model");
        assert_eq!((choice.open.as_str(), choice.files.len(), choice.complete), (names[1], 2, true));
        let by_file = choose(&repo(), &files(&names), None, Some(names[0])).expect("a model");
        assert_eq!(by_file.open, names[1]);
        let part = choose(&repo(), &files(&names[..1]), None, None).expect("a model");
        assert!(!part.complete);
    }

    #[test]
    fn folders_of_safetensors() {
        let names = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "tokenizer.json",
            "original/consolidated.00.pth",
            "onnx/model.safetensors",
            "README.md",
            "chat_template.jinja",
            "consolidated.safetensors",
        ];
        let choice = choose(&repo(), &files(&names), None, None).expect("a model");
        let mut chosen: Vec<_> = choice.files.iter().map(|file| file.path.as_str()).collect();
        chosen.sort_unstable();
        assert_eq!(chosen, ["chat_template.jinja", names[0], names[1], names[2], names[3]]);
        assert!(choice.complete && choice.open.is_empty());
        assert!(!choose(&repo(), &files(&names[..2]), None, None).expect("a model").complete);
        assert!(open(&names, Some("Q4_0")).contains("without quantisations"));
        assert!(matches!(choose(&repo(), &files(&names[3..]), None, None), Err(HubError::NoModel { .. })));
    }
}
