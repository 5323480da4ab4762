//! Stop texts in a stream: whatever could be the start of one is held back until it is clear that it is not.

/// Passes text on until a stop text appears.
pub struct StopFilter<'a> {
    stops: &'a [String],
    text: String,
    /// Bytes of `text` that were passed on.
    sent: usize,
    ended: bool,
}

impl<'a> StopFilter<'a> {
    /// A filter for these texts; empty ones never match.
    pub fn new(stops: &'a [String]) -> Self {
        Self { stops, text: String::new(), sent: 0, ended: false }
    }

    /// Takes more text and passes on what is certain. Returns the stop text that ended the stream.
    pub fn push(&mut self, piece: &str, pass: &mut dyn FnMut(&str)) -> Option<String> {
        if self.ended {
            return None;
        }
        self.text.push_str(piece);
        let unsent = &self.text[self.sent..];
        let stops = || self.stops.iter().filter(|stop| !stop.is_empty());
        let found =
            stops().filter_map(|stop| Some((unsent.find(stop.as_str())?, stop))).min_by_key(|found| found.0);
        if let Some((at, stop)) = found {
            let stop = stop.clone();
            self.text.truncate(self.sent + at);
            self.ended = true;
            self.flush(self.text.len(), pass);
            return Some(stop);
        }
        let held = stops().map(|stop| overlap(unsent, stop)).max().unwrap_or(0);
        self.flush(self.text.len() - held, pass);
        None
    }

    /// Passes on what was held back: no more text comes.
    pub fn finish(&mut self, pass: &mut dyn FnMut(&str)) {
        self.flush(self.text.len(), pass);
    }

    /// All text that was passed on.
    pub fn into_text(self) -> String {
        self.text
    }

    fn flush(&mut self, to: usize, pass: &mut dyn FnMut(&str)) {
        if to > self.sent {
            pass(&self.text[self.sent..to]);
            self.sent = to;
        }
    }
}

/// Length of the longest end of `text` that is a proper start of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let starts = stop.char_indices().map(|(at, _)| at).skip(1);
    starts.filter(|&len| text.ends_with(&stop[..len])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<String>, String) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let (mut passed, mut ended) = (Vec::new(), None);
        let mut filter = StopFilter::new(&stops);
        for piece in pieces {
            ended = ended.or(filter.push(piece, &mut |part| passed.push(part.to_owned())));
        }
        filter.finish(&mut |part| passed.push(part.to_owned()));
        (passed, ended, filter.into_text())
    }

    #[test]
    fn a_stop_over_several_pieces_is_found_and_not_passed_on() {
        let (passed, ended, text) = run(&["\nUser:"], &["Hello", ".\nUs", "er", ": hi"]);
        assert_eq!((passed.concat(), text), ("Hello.".to_owned(), "Hello.".to_owned()));
        assert_eq!(ended.as_deref(), Some("\nUser:"));
    }

    #[test]
    fn what_only_looked_like_a_stop_comes_out() {
        let (passed, ended, _) = run(&["###"], &["a#", "#b", "##"]);
        assert_eq!((passed.concat(), ended), ("a##b##".to_owned(), None));
        assert_eq!(passed[0], "a");
    }

    #[test]
    fn the_earliest_of_several_wins_and_wide_characters_are_whole() {
        let (passed, ended, _) = run(&["ßtop", "t"], &["äß", "t"]);
        assert_eq!((passed.concat().as_str(), ended.as_deref()), ("äß", Some("t")));
        assert_eq!(run(&[""], &["x"]).1, None);
    }
}
