//! The terminal as a full screen, and the interface behind which tests put another one. It must not know what
//! is drawn.

use std::io::{self, Stdout, Write};
use std::time::{Duration, Instant};

use crossterm::event::{self, Event as TerminalEvent};
use ratatui::Terminal;
use ratatui::backend::{Backend, CrosstermBackend};

use super::cluster_rows::ClusterRows;
use super::terminal::{self, KeyWait};
use crate::screen::Screen;

/// Wait for events that are already available. With 0, crossterm does not read at all; with so little, it
/// asks the system again and again until the time is over.
const AVAILABLE: Duration = Duration::from_millis(1);
/// Time after which crossterm is asked for events without a sign of any: it learns of a changed size by
/// itself.
const LOOK: Duration = Duration::from_millis(500);

/// Where a screen is drawn and where its keys come from. All errors are those of the terminal.
pub trait Display {
    /// Draws the screen, unless the terminal was given back.
    ///
    /// # Errors
    /// Writing to the terminal failed.
    fn draw(&mut self, screen: &mut Screen) -> io::Result<()>;

    /// Waits for events, at most for `wait`.
    ///
    /// # Errors
    /// Polling the terminal failed.
    fn wait(&mut self, wait: Duration) -> io::Result<KeyWait>;

    /// The next event that is available, after [`KeyWait::Ready`].
    ///
    /// # Errors
    /// Reading from the terminal failed.
    fn next_event(&mut self) -> io::Result<Option<TerminalEvent>>;

    /// Clears the terminal, so that the next frame is drawn in full.
    ///
    /// # Errors
    /// Writing to the terminal failed.
    fn redraw(&mut self) -> io::Result<()>;

    /// Gives the terminal back to other programs.
    ///
    /// # Errors
    /// Writing to the terminal failed.
    fn give_back(&mut self) -> io::Result<()>;

    /// Takes the terminal again, after it was given back or another program may have used it.
    ///
    /// # Errors
    /// The terminal cannot be used any more.
    fn take_again(&mut self) -> io::Result<()>;

    /// Gives the terminal back while `other` runs, then takes it again.
    ///
    /// # Errors
    /// As of [`Self::give_back`] and [`Self::take_again`].
    fn lend<T>(&mut self, other: impl FnOnce() -> T) -> io::Result<T> {
        self.give_back()?;
        let result = other();
        self.take_again()?;
        Ok(result)
    }
}

/// A terminal that shows the full screen. Dropping it gives the terminal back for good.
pub struct FullScreen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    rows: ClusterRows,
    /// When crossterm was last asked for events, and the size of the terminal then.
    looked: (Instant, Option<(u16, u16)>),
    /// Whether the last answer was an event: there may be more of them, already read.
    heard: bool,
}

impl FullScreen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// The terminal cannot be used.
    pub fn take() -> io::Result<Self> {
        terminal::remember();
        terminal::take_screen()?;
        match Terminal::new(CrosstermBackend::new(io::stdout())) {
            Ok(terminal) => Ok(Self {
                terminal,
                rows: ClusterRows::default(),
                looked: (Instant::now(), None),
                heard: true,
            }),
            Err(error) => {
                terminal::restore();
                Err(error)
            }
        }
    }
}

impl Display for FullScreen {
    fn draw(&mut self, screen: &mut Screen) -> io::Result<()> {
        terminal::while_taken(|| {
            let drawn = self.terminal.draw(|frame| screen.draw(frame))?;
            let again = self.rows.update(drawn.buffer)?;
            if again.is_empty() {
                return Ok(());
            }
            let mut out = io::stdout();
            out.write_all(&again)?;
            out.flush()
        })
    }

    fn wait(&mut self, wait: Duration) -> io::Result<KeyWait> {
        let waited = terminal::wait_for_input(wait)?;
        let size = crossterm::terminal::size().ok();
        let due = self.heard || self.looked.1 != size || self.looked.0.elapsed() >= LOOK;
        let waited = if waited == KeyWait::Nothing && due { KeyWait::Ready } else { waited };
        if waited == KeyWait::Ready {
            self.looked = (Instant::now(), size);
            self.heard = false;
        }
        Ok(waited)
    }

    fn next_event(&mut self) -> io::Result<Option<TerminalEvent>> {
        if !event::poll(AVAILABLE)? {
            return Ok(None);
        }
        self.heard = true;
        event::read().map(Some)
    }

    fn redraw(&mut self) -> io::Result<()> {
        self.rows = ClusterRows::default();
        terminal::while_taken(|| {
            // ratatui's own `clear` asks the terminal where the cursor is and waits for the answer.
            let mut backend = CrosstermBackend::new(io::stdout());
            backend.clear()?;
            self.terminal = Terminal::new(backend)?;
            Ok(())
        })
    }

    fn give_back(&mut self) -> io::Result<()> {
        terminal::give_screen()
    }

    fn take_again(&mut self) -> io::Result<()> {
        terminal::take_screen()?;
        self.redraw()
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        terminal::restore();
    }
}
