//! The provenance of an output in its metadata: source, options, version, and checksums of every tensor and
//! of its source. No times and no machine names: the same source and options give the same file. It must not
//! know how values are made.

use std::hash::Hasher;
use std::path::{Component, Path};

use twox_hash::XxHash3_64;

use super::checksums;
use super::journal::Entry;
use super::metadata::set;
use super::plan::Conversion;
use crate::container::gguf::write::{GgufPlan, GgufWriter};
use crate::container::gguf::{Array, Value};
use crate::container::packed;
use crate::error::Result;
use crate::io::FileBytes;
use crate::load::Source;

/// How the conversion was requested.
#[derive(Debug, Clone, Default)]
pub struct Description {
    /// Version of the program.
    pub version: String,
    /// Options that influence the output, as on a command line.
    pub options: String,
    /// The conventional number for the mixture of types, if there is one (`general.file_type`).
    pub file_type: Option<u32>,
    /// More keys, e.g. of the importance file.
    pub more: Vec<(String, Value)>,
}

/// Repository and revision of a file in a Hugging Face cache.
#[derive(Debug, Default, PartialEq, Eq)]
struct Snapshot {
    repository: Option<String>,
    revision: Option<String>,
}

impl Conversion<'_> {
    /// Adds provenance to the metadata.
    pub fn describe(&mut self, about: &Description) {
        let files = self.model.tensors.catalog().files();
        let text = |text: &str| Some(Value::Str(text.to_owned()));
        let texts = |texts: Vec<String>| Some(Value::Array(Array::Str(texts)));
        let folder = match &self.model.source {
            Source::Hf { path, .. } => path.as_path(),
            Source::Gguf { .. } => files.first().map_or(Path::new(""), FileBytes::path),
        };
        let snapshot = snapshot(folder);
        let entries = [
            ("moelten.version", text(&about.version)),
            ("moelten.options", text(&about.options)),
            ("moelten.source.name", text(&self.model.spec.name)),
            ("moelten.source.files", texts(files.iter().map(|file| name(file.path())).collect())),
            (
                "moelten.source.sizes",
                Some(Value::Array(Array::U64(files.iter().map(|file| file.size()).collect()))),
            ),
            (
                "moelten.source.sha256",
                texts(files.iter().map(|file| sha256(file.path()).unwrap_or_default()).collect())
                    .filter(|_| files.iter().any(|file| sha256(file.path()).is_some())),
            ),
            ("moelten.source.revision", snapshot.revision.map(Value::Str)),
            ("general.file_type", about.file_type.map(Value::U32)),
        ];
        for (key, value) in entries {
            set(&mut self.metadata, key, value);
        }
        if let Some(repository) = snapshot.repository {
            set(&mut self.metadata, "general.source.huggingface.repository", Some(Value::Str(repository)));
        }
        checksums::make_room(&mut self.metadata, &self.outputs);
        self.described = true;
        for (key, value) in &about.more {
            set(&mut self.metadata, key, Some(value.clone()));
        }
    }

    /// A hash of sources and options.
    pub(super) fn fingerprint(&self, plan: &GgufPlan) -> u64 {
        let mut hash = XxHash3_64::with_seed(0);
        hash.write(plan.header());
        hash.write_u64(self.importance.map_or(0, |importance| importance.fingerprint()));
        for file in self.model.tensors.catalog().files() {
            let path = file.path().canonicalize().unwrap_or_else(|_| file.path().to_owned());
            hash.write(path.as_os_str().as_encoded_bytes());
            hash.write_u64(file.size());
            let time = std::fs::metadata(file.path()).and_then(|found| found.modified()).ok();
            let time = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            hash.write_u128(time.map_or(0, |time| time.as_nanos()));
        }
        hash.finish()
    }

    /// Writes the checksums into the header of the finished file.
    pub(super) fn seal(&self, writer: &mut GgufWriter, entries: &[Entry]) -> Result<()> {
        let sums = |of: fn(&Entry) -> u64, count: usize| {
            let last = entries.get(entries.len() - count..).unwrap_or_default();
            Value::Array(Array::U64(last.iter().map(of).collect()))
        };
        if let Some(packed) = &self.packed {
            // Records come last, and each is a tensor.
            let records = packed.layers().iter().map(|layer| layer.checksums.len()).sum();
            writer.replace(packed::CHECKSUMS_KEY, &sums(|entry| entry.output, records))?;
        }
        if self.described {
            writer.replace(checksums::OUTPUTS_KEY, &sums(|entry| entry.output, entries.len()))?;
            writer.replace(checksums::SOURCES_KEY, &sums(|entry| entry.source, entries.len()))?;
        }
        Ok(())
    }
}

/// The last part of a path.
fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The SHA-256 of a file in a Hugging Face cache, which is the name of the file that the link points to.
fn sha256(path: &Path) -> Option<String> {
    let full = path.canonicalize().ok()?;
    let (name, folder) = (full.file_name()?.to_str()?, full.parent()?.file_name()?);
    let hex = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    (folder == "blobs" && hex).then(|| name.to_owned())
}

/// Repository and revision, if the path has `models--USER--NAME/snapshots/REVISION` in it.
fn snapshot(path: &Path) -> Snapshot {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let parts: Vec<&str> = full
        .components()
        .filter_map(|part| if let Component::Normal(part) = part { part.to_str() } else { None })
        .collect();
    let found = parts.array_windows().find_map(|[cached, snapshots, revision]| {
        let repository = cached.strip_prefix("models--").filter(|_| *snapshots == "snapshots")?;
        Some(Snapshot {
            repository: Some(repository.replace("--", "/")),
            revision: Some((*revision).to_owned()),
        })
    });
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_say_where_a_file_comes_from() {
        let found = snapshot(Path::new("/x/hub/models--me--my-moe/snapshots/0a1b/model.safetensors"));
        assert_eq!(found.repository.as_deref(), Some("me/my-moe"));
        assert_eq!(found.revision.as_deref(), Some("0a1b"));
        assert_eq!(snapshot(Path::new("/x/models--me/other/y")), Snapshot::default());
    }

    #[test]
    #[cfg(unix)]
    fn blobs_are_called_by_their_hash() {
        let folder = tempfile::tempdir().unwrap();
        let (blobs, link) = (folder.path().join("blobs"), folder.path().join("model.safetensors"));
        std::fs::create_dir(&blobs).unwrap();
        let hash = "0123456789abcdef".repeat(4);
        std::fs::write(blobs.join(&hash), b"x").unwrap();
        std::os::unix::fs::symlink(blobs.join(&hash), &link).unwrap();
        assert_eq!(sha256(&link), Some(hash));
        std::fs::write(folder.path().join("plain"), b"x").unwrap();
        assert_eq!(sha256(&folder.path().join("plain")), None);
    }
}
