//! The tokens of a text, cut into windows that each start with an empty context. It must not know what is
//! measured with them.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use moelten_loader::io::give_back;
use moelten_loader::text::tokenizer::Tokenizer;

use crate::chat::prompt;
use crate::exit::CommandError;
use crate::open::count;
use crate::report::waiting;

/// Most tokens of a text, which take 16 MiB: a model needs hours for as many.
const TOKENS_MAX: usize = 4 << 20;

/// Tokens of a text, by windows.
#[derive(Debug, PartialEq, Eq)]
pub struct Windows {
    ids: Vec<u32>,
    bos: Option<u32>,
    /// Tokens of the text in a window.
    step: usize,
}

/// How much of a text is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Most {
    /// The whole text.
    All,
    /// The first tokens, this many.
    Tokens(usize),
    /// The first windows, this many.
    Windows(usize),
}

impl Most {
    fn tokens(self, step: usize) -> usize {
        match self {
            Self::All => usize::MAX,
            Self::Tokens(tokens) => tokens,
            Self::Windows(windows) => windows.saturating_mul(step),
        }
    }
}

impl Windows {
    /// Reads a text, or takes the built-in one, for windows of `window` tokens, counting BOS if the
    /// tokenizer adds one.
    ///
    /// # Errors
    /// As [`ids`]; [`CommandError::Usage`] for texts or windows of less than two tokens.
    pub fn read(
        path: Option<&Path>,
        tokenizer: &Tokenizer,
        window: usize,
        most: Most,
    ) -> anyhow::Result<Self> {
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let step = window.saturating_sub(usize::from(bos.is_some()));
        let most = most.tokens(step);
        let ids = match path {
            Some(path) => ids(path, tokenizer, most)?,
            None => ids_of(SAMPLE.to_owned(), true, "the built-in text", tokenizer, most)?,
        };
        if step < 2 || ids.len() < 2 {
            let problem = format!("{} tokens in windows of {window} leave nothing to predict", ids.len());
            return Err(CommandError::Usage(problem).into());
        }
        Ok(Self { ids, bos, step })
    }

    /// Tokens of the text.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The context that a session needs.
    pub fn context(&self) -> usize {
        self.step.min(self.ids.len()) + usize::from(self.bos.is_some())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len().div_ceil(self.step)
    }

    /// Tokens that follow another one of their window, BOS included.
    pub fn predicted(&self) -> usize {
        if self.bos.is_some() { self.ids.len() } else { self.ids.len() - self.len() }
    }

    /// Tokens of each window, BOS included, and how many of the text come before it.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Vec<u32>)> {
        let windows = (0..).step_by(self.step).zip(self.ids.chunks(self.step));
        windows.map(|(before, ids)| (before, self.bos.into_iter().chain(ids.iter().copied()).collect()))
    }
}

/// Prose written for this program: about a thousand tokens. It is the same in all versions, so that results
/// can be compared.
const SAMPLE: &str = include_str!("sample.txt");

/// The first `count` tokens of the built-in text, which begins again at its end.
///
/// # Errors
/// The tokenizer cannot encode it.
pub fn sample_ids(tokenizer: &Tokenizer, count: usize) -> anyhow::Result<Vec<u32>> {
    let ids = tokenizer.encode_text(SAMPLE)?;
    Ok(ids.into_iter().cycle().take(count).collect())
}

/// The first `most` tokens of a text file, or all of them.
///
/// # Errors
/// As [`Windows::read`].
pub fn ids(path: &Path, tokenizer: &Tokenizer, most: usize) -> anyhow::Result<Vec<u32>> {
    let (text, whole) = prompt::beginning(path)?;
    ids_of(text, whole, &path.display().to_string(), tokenizer, most)
}

/// The first `most` tokens of a text, or all of them; `whole` if it is all of the text of that name.
fn ids_of(
    text: String,
    whole: bool,
    name: &str,
    tokenizer: &Tokenizer,
    most: usize,
) -> anyhow::Result<Vec<u32>> {
    let up_to = most.min(TOKENS_MAX);
    let never = AtomicBool::new(false);
    let encoded =
        waiting::during("tokenising the text", None, || tokenizer.encode_text_up_to(&text, up_to, &never))?;
    let mut ids = encoded.ids;
    let beyond = encoded.at_least > up_to;
    if beyond && (most > TOKENS_MAX || ids.len() <= up_to) {
        // Fewer ids than asked for: what follows them is one word, which is encoded whole or not at all.
        let (part, most) =
            if ids.len() > up_to { ("", TOKENS_MAX) } else { ("a word that alone has ", up_to) };
        let problem = format!(
            "{name} has {part}more than {} tokens; limit the number of tokens, or use a part of the file",
            count(most)
        );
        return Err(CommandError::Usage(problem).into());
    }
    if !whole && !beyond && ids.len() < up_to {
        let problem = format!(
            "{name} holds more than {} MiB of text, of which {} tokens were read; limit the number of tokens, or use a \
             part of the file",
            text.len() >> 20,
            count(ids.len())
        );
        return Err(CommandError::Usage(problem).into());
    }
    ids.truncate(most);
    ids.shrink_to_fit();
    // The text and the parts that it was tokenised in were larger than the ids.
    drop(text);
    give_back();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_share_the_text() {
        let windows = |ids: &[u32], bos| Windows { ids: ids.to_vec(), bos, step: 2 };
        let five = windows(&[5, 6, 7, 8, 9], Some(1));
        let all: Vec<_> = five.iter().collect();
        assert_eq!(all, [(0, vec![1, 5, 6]), (2, vec![1, 7, 8]), (4, vec![1, 9])]);
        assert_eq!((five.len(), five.context(), five.predicted()), (3, 3, 5));
        let without = windows(&[5, 6, 7, 8], None);
        assert_eq!((without.len(), without.context(), without.predicted()), (2, 2, 2));
    }

    #[test]
    fn a_part_of_a_text_is_its_beginning() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "Once upon a time there was a dog. ".repeat(10_000)).unwrap();
        let tokenizer = crate::open::builtin::load().unwrap().text().unwrap().tokenizer;
        let sample = Windows::read(None, &tokenizer, 512, Most::All).unwrap();
        assert!((900..3000).contains(&sample.tokens()), "{}", sample.tokens());
        let read = |most| Windows::read(Some(file.path()), &tokenizer, 16, most).unwrap();
        let all = read(Most::All);
        let (few, chunks) = (read(Most::Tokens(50)), read(Most::Windows(3)));
        assert_eq!((few.tokens(), chunks.len(), chunks.tokens()), (50, 3, 3 * chunks.step));
        assert!(all.tokens() > 60_000 && all.ids.starts_with(&few.ids) && all.ids.starts_with(&chunks.ids));
    }
}
