//! The `tokenizer.json` of an example: single characters and a few words, the control tokens that its kind of
//! model has, and unused tokens up to the size of its embedding. It must not know weights.

use moelten_loader::spec::Purpose;
use serde_json::{Value, json};

use crate::exit::CommandError;

/// The token that ends an answer.
pub const END: &str = "</s>";
/// The smallest vocabulary.
pub const LEAST: usize = 136;

const WORDS: [&str; 14] =
    ["the", "a", "in", "is", "dog", "cat", "house", "park", "walks", "sleeps", "The", "and", "of", "to"];
const ENDINGS: [&str; 6] = ["er", "ing", "en", "an", "on", "es"];
const LANGUAGES: [&str; 6] = ["deu_Latn", "eng_Latn", "fra_Latn", "spa_Latn", "zho_Hans", "zho_Hant"];
/// Gaps of a text.
const GAPS: usize = 16;

/// A tokenizer with `vocab` tokens for a decoder, or for an encoder-decoder of this purpose.
///
/// # Errors
/// [`CommandError::Usage`] for fewer than [`LEAST`] tokens.
pub fn tokenizer(vocab: usize, purpose: Option<Purpose>) -> Result<Value, CommandError> {
    if vocab < LEAST {
        let problem = format!("vocab_size is {vocab}, but examples need at least {LEAST} tokens");
        return Err(CommandError::Usage(problem));
    }
    let (first, last): (&[&str], Vec<String>) = match purpose {
        None | Some(Purpose::Images) => (&["<unk>", "<s>", END], Vec::new()),
        Some(Purpose::Translation) => {
            let languages = LANGUAGES.iter().map(|&code| code.to_owned());
            (&["<s>", "<pad>", END, "<unk>"], languages.chain(["<mask>".to_owned()]).collect())
        }
        Some(Purpose::Gaps | Purpose::TextToText) => {
            (&["<pad>", END, "<unk>"], (0..GAPS).rev().map(|gap| format!("<extra_id_{gap}>")).collect())
        }
    };
    let mut pieces: Vec<String> = first.iter().map(|&piece| piece.to_owned()).collect();
    pieces.push("\u{2581}".to_owned());
    pieces.extend((b'!'..=b'~').map(|letter| char::from(letter).to_string()));
    pieces.extend(WORDS.iter().map(|word| format!("\u{2581}{word}")));
    pieces.extend(ENDINGS.iter().map(|&ending| ending.to_owned()));
    let filled = vocab - last.len();
    pieces.extend((pieces.len()..filled).map(|index| format!("<unused{index}>")));
    pieces.extend(last.iter().cloned());
    let special = |piece: &String| first.contains(&piece.as_str()) || last.contains(piece);
    let added: Vec<Value> = pieces
        .iter()
        .enumerate()
        .filter(|(_, piece)| special(piece))
        .map(|(id, piece)| {
            json!({
                "id": id, "content": piece, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true
            })
        })
        .collect();
    // Longer pieces are likelier than the characters that they consist of.
    let score = |piece: &String| match piece.chars().count() {
        _ if piece.starts_with('<') && piece.len() > 1 => -100.0,
        1 => -6.0,
        _ => -3.0,
    };
    let scored: Vec<Value> = pieces.iter().map(|piece| json!([piece, score(piece)])).collect();
    let unknown = pieces.iter().position(|piece| piece == "<unk>");
    let metaspace =
        json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true });
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": metaspace, "post_processor": null, "decoder": metaspace,
        "model": { "type": "Unigram", "unk_id": unknown, "vocab": scored, "byte_fallback": false }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vocabularies_have_the_size_of_the_embedding() {
        for purpose in [None, Some(Purpose::Gaps), Some(Purpose::Translation)] {
            for vocab in [LEAST, 1000] {
                let made = tokenizer(vocab, purpose).unwrap();
                assert_eq!(made["model"]["vocab"].as_array().unwrap().len(), vocab);
            }
            assert!(tokenizer(LEAST - 1, purpose).is_err());
        }
    }
}
