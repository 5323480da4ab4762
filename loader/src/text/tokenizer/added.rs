//! Added words of a vocabulary, found in a text one after the other without a copy of the text. The rules of
//! matching (longest first, white space that a word absorbs, whole words) are those of the tokenizers crate,
//! which gets only the surroundings of each word. It must not know how the text between is encoded.

use std::collections::VecDeque;
use std::ops::Range;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use tokenizers::{
    AddedToken, AddedVocabulary, ModelWrapper, NormalizerWrapper, OffsetReferential, OffsetType,
};

/// The added words of a vocabulary.
pub(super) struct AddedWords {
    library: AddedVocabulary,
    /// Finds all occurrences of words; `None` without words.
    finder: Option<AhoCorasick>,
    /// Bytes of the longest word.
    longest: usize,
    /// Whether any word absorbs white space beside it.
    spaces: bool,
}

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Span {
    /// An added word, with the white space that it absorbs.
    Word(u32, Range<usize>),
    /// Text that has no added word in it.
    Text(Range<usize>),
}

impl AddedWords {
    /// Builds the matchers. `normalizer` applies to words that are matched in normalised text.
    pub fn new(
        words: Vec<AddedToken>,
        model: &ModelWrapper,
        normalizer: Option<&NormalizerWrapper>,
    ) -> Result<Self, String> {
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(words.iter().map(|word| &word.content))
            .map_err(|error| error.to_string())?;
        let finder = (!words.is_empty()).then_some(finder);
        let longest = words.iter().map(|word| word.content.len()).max().unwrap_or(0);
        let spaces = words.iter().any(|word| word.lstrip || word.rstrip);
        let mut library = AddedVocabulary::new();
        library.add_tokens(words, model, normalizer).map_err(|error| error.to_string())?;
        Ok(Self { library, finder, longest, spaces })
    }

    /// The library's matcher, for words that are matched in normalised text.
    pub fn library(&self) -> &AddedVocabulary {
        &self.library
    }

    /// Splits a text into words and text between them.
    pub fn spans<'w, 't>(&'w self, text: &'t str) -> WordSpans<'w, 't> {
        WordSpans { words: self, text, at: 0, begun: 0, found: VecDeque::new() }
    }

    /// The surroundings of the next words from `at` on. No word overlaps or touches the ends, and all text
    /// that decides about a word inside is inside.
    fn surroundings(&self, text: &str, at: usize) -> Option<Range<usize>> {
        let finder = self.finder.as_ref()?;
        // This match ends first. Another one may begin before it, by at most the longest word.
        let first = finder.find(Input::new(text).range(at..))?;
        let mut start = text.floor_char_boundary(first.start().saturating_sub(self.longest)).max(at);
        let before = |start: usize| text[at..start].chars().next_back();
        while let Some(c) = before(start).filter(|c| self.spaces && c.is_whitespace()) {
            start -= c.len_utf8();
        }
        start -= before(start).map_or(0, char::len_utf8);
        let mut end = first.end();
        for found in finder.find_overlapping_iter(Input::new(text).range(start..)) {
            let reach = self.reach(text, end);
            if found.start() <= reach {
                end = end.max(found.end());
            } else if found.end() > reach + self.longest {
                // Matches are ordered by their ends, so all others begin later.
                break;
            }
        }
        Some(start..self.reach(text, end))
    }

    /// One character beyond a word that ends at `end` and the white space behind it.
    fn reach(&self, text: &str, mut end: usize) -> usize {
        let after = |end: usize| text[end..].chars().next();
        while let Some(c) = after(end).filter(|c| self.spaces && c.is_whitespace()) {
            end += c.len_utf8();
        }
        end + after(end).map_or(0, char::len_utf8)
    }
}

/// The parts of a text, in order; together they are the text.
pub(super) struct WordSpans<'w, 't> {
    words: &'w AddedWords,
    text: &'t str,
    /// Words before it have been found.
    at: usize,
    /// Text before it has been returned.
    begun: usize,
    found: VecDeque<Span>,
}

impl WordSpans<'_, '_> {
    fn text_until(&mut self, end: usize) {
        if self.begun < end {
            self.found.push_back(Span::Text(self.begun..end));
            self.begun = end;
        }
    }
}

impl Iterator for WordSpans<'_, '_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        while self.found.is_empty() && self.begun < self.text.len() {
            let Some(near) = self.words.surroundings(self.text, self.at) else {
                self.text_until(self.text.len());
                break;
            };
            let split = self
                .words
                .library
                .extract_and_normalize(None::<&NormalizerWrapper>, &self.text[near.clone()]);
            for (_, (start, end), tokens) in split.get_splits(OffsetReferential::Original, OffsetType::Byte) {
                for token in tokens.iter().flatten() {
                    let place = near.start + start..near.start + end;
                    self.text_until(place.start);
                    self.begun = place.end;
                    self.found.push_back(Span::Word(token.id, place));
                }
            }
            self.at = near.end;
        }
        self.found.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::models::bpe::BPE;

    fn words(words: &[(&str, bool, bool, bool)]) -> AddedWords {
        let word = |&(text, lstrip, rstrip, single): &(&str, bool, bool, bool)| {
            AddedToken::from(text, false).lstrip(lstrip).rstrip(rstrip).single_word(single).normalized(false)
        };
        AddedWords::new(words.iter().map(word).collect(), &ModelWrapper::BPE(BPE::default()), None).unwrap()
    }

    /// The library's answer for the whole text.
    fn whole(words: &AddedWords, text: &str) -> Vec<Span> {
        let split = words.library.extract_and_normalize(None::<&NormalizerWrapper>, text);
        let splits = split.get_splits(OffsetReferential::Original, OffsetType::Byte).into_iter();
        let span = |(_, (start, end), tokens): (_, _, &Option<Vec<tokenizers::Token>>)| match tokens {
            Some(tokens) => Span::Word(tokens[0].id, start..end),
            None => Span::Text(start..end),
        };
        splits.map(span).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn surroundings_are_enough(
            text in "(<a>|<a|a>|ab|aba|<b> | <b>|é|x|  |\\n|<c>|w|-){0,40}",
            flags in prop::array::uniform6((any::<bool>(), any::<bool>(), any::<bool>())),
        ) {
            let texts = ["<a>", "aba", "ab", "<b>", "<c> w", "-"];
            let list: Vec<_> =
                texts.iter().zip(flags).map(|(text, (l, r, single))| (*text, l, r, single)).collect();
            let words = words(&list);
            let parts: Vec<Span> = words.spans(&text).collect();
            prop_assert_eq!(parts, whole(&words, &text));
        }
    }
}
