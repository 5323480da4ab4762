//! Texts that were entered before: Up and Down through them, and a search. It must not know where they are kept.

/// Where in the history the person is.
#[derive(Debug, Default)]
pub struct Recall {
    /// The oldest first.
    texts: Vec<String>,
    /// The text that is shown, and what was being written before.
    at: Option<(usize, String)>,
    search: Option<Search>,
}

/// Where the person was when something else came in between.
#[derive(Debug)]
pub struct Recalled(Option<(usize, String)>);

/// A search through the history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// What is looked for.
    pub wanted: String,
    /// Where it was found.
    found: Option<usize>,
    /// What was being written before.
    before: String,
}

impl Recall {
    /// A history, the oldest first.
    pub fn new(texts: Vec<String>) -> Self {
        Self { texts, at: None, search: None }
    }

    /// Adds a text, unless it was the last.
    pub fn add(&mut self, text: &str) {
        if self.texts.last().is_none_or(|last| last != text) {
            self.texts.push(text.to_owned());
        }
        self.rest();
    }

    /// What is written next begins anew.
    pub fn rest(&mut self) {
        self.at = None;
        self.search = None;
    }

    /// What is written next begins anew, until this comes back.
    pub fn put_aside(&mut self) -> Recalled {
        self.search = None;
        Recalled(self.at.take())
    }

    /// Goes on where the person was.
    pub fn put_back(&mut self, recalled: Recalled) {
        self.rest();
        self.at = recalled.0;
    }

    /// The text before the one that is shown; `written` comes back on the way down.
    pub fn older(&mut self, written: &str) -> Option<&str> {
        let (at, before) = match self.at.take() {
            Some((at, before)) => (at, before),
            None => (self.texts.len(), written.to_owned()),
        };
        let older = at.checked_sub(1);
        self.at = Some((older.unwrap_or(at), before)).filter(|(at, _)| *at < self.texts.len());
        older.map(|older| self.texts[older].as_str())
    }

    /// The text after the one that is shown, at last what was being written.
    pub fn newer(&mut self) -> Option<String> {
        let (at, before) = self.at.take()?;
        match self.texts.get(at + 1) {
            Some(text) => {
                self.at = Some((at + 1, before));
                Some(text.clone())
            }
            None => Some(before),
        }
    }

    /// The search that goes on.
    pub fn search(&self) -> Option<&Search> {
        self.search.as_ref()
    }

    /// Begins a search, or looks further back.
    pub fn search_older(&mut self, written: &str) -> Option<&str> {
        match &self.search {
            None => {
                self.search = Some(Search { before: written.to_owned(), ..Search::default() });
                None
            }
            Some(search) => {
                let from = search.found.unwrap_or(self.texts.len());
                self.find(from)
            }
        }
    }

    /// Looks for more, or with `None` for one character less.
    pub fn search_for(&mut self, more: Option<char>) -> Option<&str> {
        let search = self.search.as_mut()?;
        match more {
            Some(c) => search.wanted.push(c),
            None => drop(search.wanted.pop()),
        }
        self.find(self.texts.len())
    }

    /// Ends the search; what was being written before, if it is to come back.
    pub fn search_ends(&mut self, back: bool) -> Option<String> {
        self.search.take().map(|search| search.before).filter(|_| back)
    }

    /// The newest text before the one at `from` that holds what is wanted.
    fn find(&mut self, from: usize) -> Option<&str> {
        let search = self.search.as_mut()?;
        if search.wanted.is_empty() {
            return None;
        }
        let wanted = search.wanted.to_lowercase();
        let found = self.texts[..from].iter().rposition(|text| text.to_lowercase().contains(&wanted));
        if found.is_some() || from == self.texts.len() {
            search.found = found;
        }
        let found = found?;
        Some(&self.texts[found])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recall() -> Recall {
        Recall::new(["one", "two", "one more"].map(String::from).into())
    }

    #[test]
    fn up_and_down_go_through_the_texts_and_come_back() {
        let mut recall = recall();
        assert_eq!(recall.newer(), None);
        assert_eq!(recall.older("draft"), Some("one more"));
        assert_eq!(recall.older("x"), Some("two"));
        assert_eq!(recall.older("x"), Some("one"));
        assert_eq!(recall.older("x"), None);
        assert_eq!(recall.newer().as_deref(), Some("two"));
        assert_eq!(recall.newer().as_deref(), Some("one more"));
        assert_eq!(recall.newer().as_deref(), Some("draft"));
        assert_eq!(recall.newer(), None);
        assert_eq!(Recall::default().older("draft"), None);
    }

    #[test]
    fn a_search_goes_back_and_can_be_left() {
        let mut recall = recall();
        assert_eq!(recall.search_older("draft"), None);
        assert_eq!(recall.search_for(Some('O')), Some("one more"));
        assert_eq!(recall.search_for(Some('n')), Some("one more"));
        assert_eq!(recall.search_older(""), Some("one"));
        assert_eq!(recall.search_older(""), None);
        assert_eq!(recall.search_for(None), Some("one more"));
        assert_eq!(recall.search_ends(true).as_deref(), Some("draft"));
        assert!(recall.search().is_none());
    }

    #[test]
    fn the_same_text_twice_is_one() {
        let mut recall = recall();
        recall.add("one more");
        recall.add("new");
        assert_eq!(recall.older(""), Some("new"));
        assert_eq!(recall.older(""), Some("one more"));
        assert_eq!(recall.older(""), Some("two"));
    }
}
