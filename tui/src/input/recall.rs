//! Earlier entries: browsing them with Up and Down, and a search. It must not know where they are stored.

/// The earlier entries with the position of the user in them.
#[derive(Debug, Default)]
pub struct EntryHistory {
    /// Earlier entries, the oldest first.
    texts: Vec<String>,
    /// The entry that is shown, and the draft that it replaced.
    at: Option<(usize, String)>,
    search: Option<HistorySearch>,
}

/// A position in the history, to be restored later.
#[derive(Debug)]
pub struct HistoryPosition(Option<(usize, String)>);

/// A search through the history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistorySearch {
    /// The text to find, in any case.
    pub wanted: String,
    /// The entry that holds it.
    found: Option<usize>,
    /// The draft before the search.
    before: String,
}

impl EntryHistory {
    /// A history of these entries, the oldest first.
    pub fn new(texts: Vec<String>) -> Self {
        Self { texts, at: None, search: None }
    }

    /// Adds an entry, unless it equals the last one.
    pub fn add(&mut self, text: &str) {
        if self.texts.last().is_none_or(|last| last != text) {
            self.texts.push(text.to_owned());
        }
        self.reset();
    }

    /// Forgets the position and the search.
    pub fn reset(&mut self) {
        self.at = None;
        self.search = None;
    }

    /// Takes the position out, for [`Self::restore`].
    pub fn take_position(&mut self) -> HistoryPosition {
        self.search = None;
        HistoryPosition(self.at.take())
    }

    /// Returns to an earlier position.
    pub fn restore(&mut self, position: HistoryPosition) {
        self.reset();
        self.at = position.0;
    }

    /// The entry before the one that is shown. `draft` is the composed text; [`Self::newer`] returns it at
    /// the end.
    pub fn older(&mut self, draft: &str) -> Option<&str> {
        let (at, before) = match self.at.take() {
            Some((at, before)) => (at, before),
            None => (self.texts.len(), draft.to_owned()),
        };
        let older = at.checked_sub(1);
        self.at = Some((older.unwrap_or(at), before)).filter(|(at, _)| *at < self.texts.len());
        older.map(|older| self.texts[older].as_str())
    }

    /// The entry after the one that is shown; after the last one, the draft.
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

    /// The search in progress.
    pub fn search(&self) -> Option<&HistorySearch> {
        self.search.as_ref()
    }

    /// Begins a search, or continues it to an older match.
    pub fn search_older(&mut self, draft: &str) -> Option<&str> {
        match &self.search {
            None => {
                self.search = Some(HistorySearch { before: draft.to_owned(), ..HistorySearch::default() });
                None
            }
            Some(search) => {
                let from = search.found.unwrap_or(self.texts.len());
                self.find(from)
            }
        }
    }

    /// Adds a character to the searched text, or with `None` removes one; the newest match.
    pub fn search_for(&mut self, more: Option<char>) -> Option<&str> {
        let search = self.search.as_mut()?;
        match more {
            Some(c) => search.wanted.push(c),
            None => drop(search.wanted.pop()),
        }
        self.find(self.texts.len())
    }

    /// Ends the search; with `cancel`, returns the draft from before it.
    pub fn end_search(&mut self, cancel: bool) -> Option<String> {
        self.search.take().map(|search| search.before).filter(|_| cancel)
    }

    /// The newest match before entry `from`.
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

    fn history() -> EntryHistory {
        EntryHistory::new(["one", "two", "one more"].map(String::from).into())
    }

    #[test]
    fn up_and_down_go_through_the_entries_and_return_the_draft() {
        let mut history = history();
        assert_eq!(history.newer(), None);
        assert_eq!(history.older("draft"), Some("one more"));
        assert_eq!(history.older("x"), Some("two"));
        assert_eq!(history.older("x"), Some("one"));
        assert_eq!(history.older("x"), None);
        assert_eq!(history.newer().as_deref(), Some("two"));
        assert_eq!(history.newer().as_deref(), Some("one more"));
        assert_eq!(history.newer().as_deref(), Some("draft"));
        assert_eq!(history.newer(), None);
        assert_eq!(EntryHistory::default().older("draft"), None);
    }

    #[test]
    fn a_search_goes_back_and_can_be_cancelled() {
        let mut history = history();
        assert_eq!(history.search_older("draft"), None);
        assert_eq!(history.search_for(Some('O')), Some("one more"));
        assert_eq!(history.search_for(Some('n')), Some("one more"));
        assert_eq!(history.search_older(""), Some("one"));
        assert_eq!(history.search_older(""), None);
        assert_eq!(history.search_for(None), Some("one more"));
        assert_eq!(history.end_search(true).as_deref(), Some("draft"));
        assert!(history.search().is_none());
    }

    #[test]
    fn a_repeated_entry_is_kept_once() {
        let mut history = history();
        history.add("one more");
        history.add("new");
        assert_eq!(history.older(""), Some("new"));
        assert_eq!(history.older(""), Some("one more"));
        assert_eq!(history.older(""), Some("two"));
    }
}
