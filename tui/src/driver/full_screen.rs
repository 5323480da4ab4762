//! The terminal as a full screen, and the interface behind which tests put another one. It must not know what
//! is drawn.

use std::io::{self, Stdout};
use std::time::Duration;

use crossterm::event::{self, Event as TerminalEvent};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use super::terminal::{self, KeyWait};
use crate::screen::Screen;

/// Wait for events that are already available. With 0, crossterm does not read at all.
const AVAILABLE: Duration = Duration::from_millis(1);

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
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                terminal::restore();
                Err(error)
            }
        }
    }
}

impl Display for FullScreen {
    fn draw(&mut self, screen: &mut Screen) -> io::Result<()> {
        terminal::while_taken(|| self.terminal.draw(|frame| screen.draw(frame)).map(drop))
    }

    fn wait(&mut self, wait: Duration) -> io::Result<KeyWait> {
        terminal::wait_for_input(wait)
    }

    fn next_event(&mut self) -> io::Result<Option<TerminalEvent>> {
        if event::poll(AVAILABLE)? { event::read().map(Some) } else { Ok(None) }
    }

    fn redraw(&mut self) -> io::Result<()> {
        terminal::while_taken(|| self.terminal.clear())
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
