//! Names of models: `user/repo`, with a quantisation, a revision or a file. It must not know whether such a
//! model exists.

use std::fmt;

use crate::error::HubError;

/// Prefixes that say that a name is meant, and no path.
const PREFIXES: [&str; 6] =
    ["hf://", "hf:", "https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf.co/"];

/// `user/repo`, in the characters that the hub allows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepoId(String);

/// A model on the hub: `user/repo`, `user/repo:QUANT`, `user/repo@REVISION`, `user/repo@REVISION:QUANT`, with
/// `hf:` or the address of the hub before it, or the address of a file there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName {
    /// The repository.
    pub repo: RepoId,
    /// Branch, tag or commit; `main` if there is none.
    pub revision: Option<String>,
    /// Quantisation of GGUF files, such as `Q4_K_M`.
    pub quant: Option<String>,
    /// One file of the repository, of a split file any part.
    pub file: Option<String>,
}

impl RepoId {
    /// # Errors
    /// [`HubError::Name`] if it is not two parts of letters, digits, `-`, `_` and `.`.
    pub fn new(text: &str) -> Result<Self, HubError> {
        let part = |part: &str| {
            let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            (1..=96).contains(&part.len())
                && part.bytes().all(known)
                && !part.starts_with(['.', '-'])
                && !part.ends_with('.')
                && !part.contains("--")
                && !part.contains("..")
        };
        match text.split_once('/') {
            Some((user, repo)) if part(user) && part(repo) => Ok(Self(text.to_owned())),
            _ => Err(HubError::Name(text.to_owned())),
        }
    }

    /// `user/repo`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder of the repository in the cache: `models--user--repo`.
    pub(crate) fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }

    /// The repository of a folder in the cache.
    pub(crate) fn of_folder(folder: &str) -> Option<Self> {
        let name = folder.strip_prefix("models--")?;
        Self::new(&name.replacen("--", "/", 1)).ok()
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ModelName {
    /// Reads a name. `None` for text that is more likely a path: without a prefix only `user/repo` is a name,
    /// and not one that ends as a model file does.
    ///
    /// # Errors
    /// [`HubError::Name`] for a prefix with something behind it that is no name.
    pub fn parse(text: &str) -> Result<Option<Self>, HubError> {
        let prefix = PREFIXES.iter().find(|prefix| text.starts_with(**prefix));
        let body = prefix.map_or(text, |prefix| &text[prefix.len()..]);
        let file_like = [".gguf", ".safetensors", ".json", ".bin"].iter().any(|end| body.ends_with(end));
        if prefix.is_none() && (file_like || body.contains('\\') || body.matches('/').count() != 1) {
            return Ok(None);
        }
        match Self::read(body) {
            Err(_) if prefix.is_none() => Ok(None),
            read => read.map(Some).map_err(|_| HubError::Name(text.to_owned())),
        }
    }

    fn read(body: &str) -> Result<Self, HubError> {
        let bad = || HubError::Name(body.to_owned());
        let body = body.split(['?', '#']).next().unwrap_or(body).trim_end_matches('/');
        let (user, rest) = body.split_once('/').ok_or_else(bad)?;
        let (repo, path) = rest.split_once('/').map_or((rest, None), |(repo, path)| (repo, Some(path)));
        let (repo, quant) = repo.split_once(':').map_or((repo, None), |(repo, quant)| (repo, Some(quant)));
        let (repo, revision) = repo.split_once('@').map_or((repo, None), |(repo, rev)| (repo, Some(rev)));
        let repo = RepoId::new(&format!("{user}/{repo}"))?;
        let mut name = Self { repo, revision: revision.map(str::to_owned), quant: None, file: None };
        name.quant = quant.map(str::to_owned);
        if let Some(path) = path {
            name.path(path).ok_or_else(bad)?;
        }
        let revision_ok = name.revision.as_deref().is_none_or(is_revision);
        let quant_ok = name.quant.as_deref().is_none_or(|quant| {
            !quant.is_empty()
                && quant.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        });
        if revision_ok && quant_ok && name.file.as_deref().is_none_or(is_safe_path) {
            Ok(name)
        } else {
            Err(bad())
        }
    }

    /// What stands behind `user/repo/`: a file, or the hub's `resolve/REVISION/FILE`, `blob/...`,
    /// `tree/REVISION`.
    fn path(&mut self, path: &str) -> Option<()> {
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        match first {
            "resolve" | "blob" | "tree" => {
                let (revision, file) = rest.split_once('/').map_or((rest, None), |(r, file)| (r, Some(file)));
                self.revision = Some(revision.to_owned());
                self.file = file.map(str::to_owned);
            }
            _ => self.file = Some(path.to_owned()),
        }
        Some(())
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match (&self.file, &self.quant) {
            (Some(file), _) => write!(f, "/{file}"),
            (None, Some(quant)) => write!(f, ":{quant}"),
            (None, None) => Ok(()),
        }
    }
}

/// Whether it can be a branch, a tag or a commit, and a file name in `refs`.
pub fn is_revision(text: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    (1..=128).contains(&text.len()) && text.bytes().all(known) && is_safe_path(text)
}

/// Whether it is a commit: 40 hexadecimal digits in lower case.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether a path of the hub stays in its folder on every system.
pub fn is_safe_path(path: &str) -> bool {
    let part =
        |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':', '\0']);
    path.len() <= 1024 && path.split('/').all(part) && !path.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ModelName {
        ModelName::parse(text).expect("a sound name").expect("a name and no path")
    }

    #[test]
    fn names_in_every_form() {
        let plain = name("Qwen/Qwen3-30B-A3B-GGUF");
        assert_eq!(plain.repo.as_str(), "Qwen/Qwen3-30B-A3B-GGUF");
        assert_eq!((plain.revision, plain.quant, plain.file), (None, None, None));
        assert_eq!(name("u/r:q4_k_m").quant.as_deref(), Some("q4_k_m"));
        let both = name("hf:u/r@v1.0:Q8_0");
        assert_eq!((both.revision.as_deref(), both.quant.as_deref()), (Some("v1.0"), Some("Q8_0")));
        assert_eq!(name("https://huggingface.co/u/r").to_string(), "u/r");
        let file = name("https://huggingface.co/u/r/resolve/main/a/m-Q4_0.gguf?download=true");
        assert_eq!((file.revision.as_deref(), file.file.as_deref()), (Some("main"), Some("a/m-Q4_0.gguf")));
        assert_eq!(name("hf://u/r/m.gguf").file.as_deref(), Some("m.gguf"));
        assert_eq!(name("hf.co/u/r/tree/dev").revision.as_deref(), Some("dev"));
        for text in ["u/r", "u/r:Q8_0", "u/r@main", "u/r@main:Q8_0"] {
            assert_eq!(name(text).to_string(), text);
        }
    }

    #[test]
    fn paths_are_no_names() {
        for path in
            ["model.gguf", "models/m.gguf", "./u/r", "../u", "/u/r", "a/b/c", "u\\r", "~/m", "m", "a//b", ""]
        {
            assert_eq!(ModelName::parse(path).expect("no error without a prefix"), None, "{path}");
        }
    }

    #[test]
    fn a_prefix_with_no_name_behind_it_is_refused() {
        for text in
            ["hf:", "hf:u", "hf:u/..", "hf://u/r/../../x", "hf:u/r:a b", "hf:u/r@../x", "hf:-u/r", "hf:u/r@"]
        {
            assert!(matches!(ModelName::parse(text), Err(HubError::Name(_))), "{text}");
        }
    }

    #[test]
    fn folders_of_the_cache_and_back() {
        let repo = RepoId::new("org/some-model.v2").expect("sound");
        assert_eq!(repo.folder(), "models--org--some-model.v2");
        assert_eq!(RepoId::of_folder(&repo.folder()), Some(repo));
        assert_eq!(RepoId::of_folder("datasets--a--b"), None);
    }

    #[test]
    fn paths_of_the_hub_stay_in_their_folder() {
        assert!(is_safe_path("a/b.gguf") && is_safe_path("Q4_K_M/m-00001-of-00002.gguf"));
        for path in ["../a", "a/../../b", "/a", "a//b", "c:\\x", "a\nb", "", "a/."] {
            assert!(!is_safe_path(path), "{path:?}");
        }
    }
}
