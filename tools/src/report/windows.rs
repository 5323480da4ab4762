//! The tokens of a text, cut into windows that each start with an empty context. It must not know what is
//! measured with them.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use moelten_loader::text::tokenizer::Tokenizer;

use crate::exit::CommandError;

/// Tokens of a text, by windows.
#[derive(Debug, PartialEq, Eq)]
pub struct Windows {
    ids: Vec<u32>,
    bos: Option<u32>,
    /// Tokens of the text in a window.
    step: usize,
}

impl Windows {
    /// Reads a text in UTF-8, at most `most` tokens of it, for windows of `window` tokens, counting BOS if
    /// the tokenizer adds one.
    ///
    /// # Errors
    /// What keeps the file from being read; [`CommandError::Usage`] for other bytes than UTF-8 and for texts
    /// or windows of less than two tokens.
    pub fn read(
        path: &Path,
        tokenizer: &Tokenizer,
        window: usize,
        most: Option<usize>,
    ) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let text = String::from_utf8(text)
            .map_err(|error| CommandError::Usage(format!("{} is not UTF-8: {error}", path.display())))?;
        let most = most.unwrap_or(usize::MAX);
        let mut ids = tokenizer.encode_text_up_to(&text, most, &AtomicBool::new(false))?.ids;
        ids.truncate(most);
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let step = window.saturating_sub(usize::from(bos.is_some()));
        if step < 2 || ids.len() < 2 {
            let problem = format!("{} tokens in windows of {window} leave nothing to predict", ids.len());
            return Err(CommandError::Usage(problem).into());
        }
        Ok(Self { ids, bos, step })
    }

    /// Keeps no more than so many windows.
    pub fn keep(&mut self, windows: usize) {
        self.ids.truncate(windows.saturating_mul(self.step));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_share_the_text() {
        let mut windows = Windows { ids: vec![5, 6, 7, 8, 9], bos: Some(1), step: 2 };
        let all: Vec<_> = windows.iter().collect();
        assert_eq!(all, [(0, vec![1, 5, 6]), (2, vec![1, 7, 8]), (4, vec![1, 9])]);
        assert_eq!((windows.len(), windows.context(), windows.predicted()), (3, 3, 5));
        windows.keep(2);
        assert_eq!((windows.len(), windows.tokens()), (2, 4));
        windows.bos = None;
        assert_eq!((windows.context(), windows.predicted()), (2, 2));
    }
}
