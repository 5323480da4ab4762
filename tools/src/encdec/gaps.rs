//! Texts with gaps, as models of the T5 kind are trained to fill them (arXiv 1910.10683, section 3.1.4): a
//! gap is a sentinel token `<extra_id_0>`, `<extra_id_1>` and so on, and the answer has each sentinel before
//! what belongs into its gap. It must not know the engine.

use moelten_loader::text::tokenizer::{TokenKind, Tokenizer};

use crate::exit::CommandError;

const OPENING: &str = "<extra_id_";

/// The sentinels of a vocabulary.
pub struct Sentinels {
    /// Their tokens, by number.
    ids: Vec<u32>,
}

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// What stands there.
    Text(String),
    /// A gap, by its number.
    Gap(usize),
}

impl Sentinels {
    /// Those of a vocabulary, as far as they are numbered without a hole.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let vocab = 0..u32::try_from(tokenizer.vocab_len()).unwrap_or(u32::MAX);
        let special = |id: u32| {
            matches!(
                tokenizer.kind(id),
                Some(TokenKind::Control | TokenKind::UserDefined | TokenKind::Normal)
            )
        };
        let mut found: Vec<(usize, u32)> = vocab
            .filter(|&id| special(id))
            .filter_map(|id| Some((whole(tokenizer.piece(id)?)?, id)))
            .collect();
        found.sort_unstable();
        let numbered = found.into_iter().enumerate().take_while(|(index, (number, _))| index == number);
        Self { ids: numbered.map(|(_, (_, id))| id).collect() }
    }

    /// The token of a gap.
    pub fn token(&self, gap: usize) -> Option<u32> {
        self.ids.get(gap).copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// A text as its parts, and the number of its gaps.
    ///
    /// # Errors
    /// [`CommandError::Usage`] for gaps that are not numbered one after the other from 0, and for more than
    /// the vocabulary has.
    pub fn split(&self, text: &str) -> Result<(Vec<Part>, usize), CommandError> {
        let (mut parts, mut rest, mut gaps) = (Vec::new(), text, 0);
        let mut before = String::new();
        while let Some(at) = rest.find(OPENING) {
            let (text, from) = rest.split_at(at);
            before.push_str(text);
            let Some((number, after)) = sentinel(from) else {
                before.push_str(OPENING);
                rest = &from[OPENING.len()..];
                continue;
            };
            if number != gaps {
                let problem = format!("the text has {OPENING}{number}> where {OPENING}{gaps}> is expected");
                return Err(CommandError::Usage(format!("{problem}: gaps are numbered in order from 0")));
            }
            if number >= self.len() {
                let known = self.len();
                return Err(CommandError::Usage(format!(
                    "the text has more gaps than the {known} of the model"
                )));
            }
            if !before.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut before)));
            }
            parts.push(Part::Gap(number));
            (rest, gaps) = (after, gaps + 1);
        }
        before.push_str(rest);
        if !before.is_empty() {
            parts.push(Part::Text(before));
        }
        Ok((parts, gaps))
    }

    /// What an answer says for each of `gaps` gaps; `None` for those that it leaves out. Of a gap that it
    /// fills twice the first counts.
    pub fn fillings(&self, answer: &[u32], gaps: usize, tokenizer: &Tokenizer) -> Vec<Option<Filling>> {
        let mut out = vec![None; gaps];
        let number = |id: &u32| self.ids.iter().position(|known| known == id);
        let starts: Vec<(usize, usize)> =
            answer.iter().enumerate().filter_map(|(at, id)| Some((at, number(id)?))).collect();
        for (index, &(at, gap)) in starts.iter().enumerate() {
            let end = starts.get(index + 1).map_or(answer.len(), |&(next, _)| next);
            let ids = answer.get(at + 1..end).unwrap_or_default();
            if let Some(slot @ None) = out.get_mut(gap) {
                let text = tokenizer.decode(ids).trim().to_owned();
                let word = ids
                    .first()
                    .and_then(|&id| tokenizer.piece(id))
                    .is_some_and(|p| p.starts_with('\u{2581}'));
                *slot = Some(Filling { text, word });
            }
        }
        out
    }
}

/// What belongs into a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filling {
    /// Its text, without space around it.
    pub text: String,
    /// Whether it begins a word.
    pub word: bool,
}

/// The text with its gaps filled. Gaps without a filling stay as they are.
pub fn filled(parts: &[Part], fillings: &[Option<Filling>]) -> String {
    let mut out = String::new();
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Gap(gap) => match fillings.get(*gap).and_then(Option::as_ref) {
                Some(Filling { text, word }) => {
                    let joined = out.chars().next_back().is_none_or(char::is_whitespace);
                    if *word && !joined && !text.is_empty() {
                        out.push(' ');
                    }
                    out.push_str(text);
                }
                None => out.push_str(&format!("{OPENING}{gap}>")),
            },
        }
    }
    out
}

/// The number of the sentinel that a text begins with, and the rest of the text.
fn sentinel(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = text.strip_prefix(OPENING)?.split_once('>')?;
    let digits = !number.is_empty() && number.len() < 6 && number.chars().all(|c| c.is_ascii_digit());
    Some((number.parse().ok().filter(|_| digits)?, rest))
}

/// The number of a token that is a sentinel.
fn whole(piece: &str) -> Option<usize> {
    sentinel(piece).and_then(|(number, rest)| rest.is_empty().then_some(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Result<(Vec<Part>, usize), String> {
        Sentinels { ids: vec![99, 98, 97] }.split(text).map_err(|error| error.to_string())
    }

    #[test]
    fn texts_are_split_at_their_gaps() {
        let text = |text: &str| Part::Text(text.to_owned());
        let (parts, gaps) = split("The <extra_id_0> walks in <extra_id_1> park").unwrap();
        let expected = [text("The "), Part::Gap(0), text(" walks in "), Part::Gap(1), text(" park")];
        assert_eq!((parts, gaps), (expected.to_vec(), 2));
        assert_eq!(split("no gap").unwrap(), (vec![text("no gap")], 0));
        assert_eq!(split("<extra_id_0>").unwrap(), (vec![Part::Gap(0)], 1));
        assert_eq!(split("<extra_id_x> <extra_id_").unwrap(), (vec![text("<extra_id_x> <extra_id_")], 0));
    }

    #[test]
    fn gaps_that_are_not_numbered_in_order_are_refused() {
        let found = split("a <extra_id_1>").unwrap_err();
        assert!(found.contains("<extra_id_1> where <extra_id_0>"), "{found}");
        let twice = split("<extra_id_0> <extra_id_0>").unwrap_err();
        assert!(twice.contains("<extra_id_0> where <extra_id_1>"), "{twice}");
        let many = split("<extra_id_0><extra_id_1><extra_id_2><extra_id_3>").unwrap_err();
        assert!(many.contains("more gaps than the 3"), "{many}");
    }

    #[test]
    fn fillings_stand_in_their_gaps() {
        let (parts, _) = split("The <extra_id_0> walk<extra_id_1> in<extra_id_2>.").unwrap();
        let filling = |text: &str, word| Some(Filling { text: text.to_owned(), word });
        let fillings = [filling("dog", true), filling("s", false), filling("parks", true)];
        assert_eq!(filled(&parts, &fillings), "The dog walks in parks.");
        let fillings = [filling("", false), None, None];
        assert_eq!(filled(&parts, &fillings), "The  walk<extra_id_1> in<extra_id_2>.");
    }
}
