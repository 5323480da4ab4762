//! The terminal as a full screen: taken, given back for a while, given back for good.

use std::io::{self, Stdout};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use crate::screen::Screen;
use crate::terminal;

/// A terminal that shows a screen. Gives it back when dropped.
pub struct FullScreen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl FullScreen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// A terminal that cannot be used.
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

    /// Draws the screen, unless it was given back for good.
    ///
    /// # Errors
    /// Write errors.
    pub fn draw(&mut self, screen: &mut Screen) -> io::Result<()> {
        terminal::while_taken(|| self.terminal.draw(|frame| screen.draw(frame)).map(drop))
    }

    /// Gives the terminal back while `other` uses it, then takes it again.
    ///
    /// # Errors
    /// A terminal that cannot be used any more.
    pub fn lend<T>(&mut self, other: impl FnOnce() -> T) -> io::Result<T> {
        terminal::give_screen()?;
        let result = other();
        self.take_again()?;
        Ok(result)
    }

    /// Takes the terminal after somebody else had it.
    ///
    /// # Errors
    /// A terminal that cannot be used any more.
    pub fn take_again(&mut self) -> io::Result<()> {
        terminal::take_screen()?;
        self.redraw()
    }

    /// Draws everything anew next time.
    ///
    /// # Errors
    /// Write errors.
    pub fn redraw(&mut self) -> io::Result<()> {
        terminal::while_taken(|| self.terminal.clear())
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        terminal::restore();
    }
}
