//! Where the cache is, which hub, which token: the environment variables that the hub's own programs read. It
//! must not know what is downloaded.

use std::fs;
use std::path::{Path, PathBuf};

/// The hub if `HF_ENDPOINT` names no other one.
pub const ENDPOINT: &str = "https://huggingface.co";

/// A secret: neither printed nor part of a message.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// How the hub is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cache: `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or `huggingface/hub` in the user's cache folder.
    pub cache: PathBuf,
    /// Address of the hub without a slash at the end: `HF_ENDPOINT`.
    pub endpoint: String,
    /// `HF_TOKEN`, or the file that `hf auth login` writes.
    pub token: Option<Token>,
    /// `HF_HUB_OFFLINE`: nothing is downloaded.
    pub offline: bool,
}

impl Token {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(...)")
    }
}

impl Settings {
    /// Those of this process and its user. `None` without a home folder and without `HF_HOME`.
    pub fn here() -> Option<Self> {
        let home = etcetera::home_dir().ok();
        Self::of(home.as_deref(), |name| std::env::var(name).ok())
    }

    /// Those of a home folder and these variables.
    pub fn of(home: Option<&Path>, value: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let value = |name: &str| value(name).filter(|value| !value.trim().is_empty());
        let path = |name: &str| value(name).map(PathBuf::from);
        let user = path("XDG_CACHE_HOME").or_else(|| home.map(|home| home.join(".cache")));
        let own = path("HF_HOME").or_else(|| user.map(|user| user.join("huggingface")));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.or_else(|| own.as_ref().map(|own| own.join("hub")))?;
        let token = || {
            let file = path("HF_TOKEN_PATH").or_else(|| own.as_ref().map(|own| own.join("token")))?;
            fs::read_to_string(file).ok()
        };
        let token = value("HF_TOKEN").or_else(|| value("HUGGING_FACE_HUB_TOKEN")).or_else(token);
        let token = token.map(|token| token.trim().to_owned()).filter(|token| is_token(token)).map(Token);
        let endpoint = value("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let yes = |name: &str| {
            value(name)
                .is_some_and(|value| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
        };
        Some(Self {
            cache,
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            token,
            offline: yes("HF_HUB_OFFLINE"),
        })
    }
}

/// A token becomes part of a header: visible ASCII.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[(&str, &str)]) -> Settings {
        let value = |name: &str| values.iter().find(|v| v.0 == name).map(|v| v.1.to_owned());
        Settings::of(Some(Path::new("/home/ann")), value).expect("a home folder")
    }

    #[test]
    fn the_cache_follows_the_variables_of_the_hub() {
        assert_eq!(of(&[]).cache, Path::new("/home/ann/.cache/huggingface/hub"));
        assert_eq!(of(&[("XDG_CACHE_HOME", "/c")]).cache, Path::new("/c/huggingface/hub"));
        assert_eq!(of(&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/c")]).cache, Path::new("/h/hub"));
        assert_eq!(of(&[("HF_HUB_CACHE", "/x"), ("HF_HOME", "/h")]).cache, Path::new("/x"));
        assert!(Settings::of(None, |_| None).is_none());
    }

    #[test]
    fn switches_and_secrets() {
        assert!(of(&[("HF_HUB_OFFLINE", "1")]).offline && of(&[("HF_HUB_OFFLINE", "true")]).offline);
        assert!(!of(&[("HF_HUB_OFFLINE", "0")]).offline && !of(&[]).offline);
        assert_eq!(of(&[("HF_ENDPOINT", "http://127.0.0.1:9/")]).endpoint, "http://127.0.0.1:9");
        assert_eq!(of(&[]).endpoint, ENDPOINT);
        let secret = of(&[("HF_TOKEN", " hf_abc \n")]);
        assert_eq!(secret.token.as_ref().map(Token::as_str), Some("hf_abc"));
        assert!(!format!("{secret:?}").contains("hf_abc"));
        assert!(of(&[("HF_TOKEN", "a b")]).token.is_none());
    }
}
