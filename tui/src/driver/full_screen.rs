//! The terminal as a full screen. It is given back when this is dropped. It must not know what is drawn.

use std::io::{self, Stdout};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use super::terminal;
use crate::screen::Screen;

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

    /// Draws the screen, unless the terminal was given back.
    ///
    /// # Errors
    /// Writing to the terminal failed.
    pub fn draw(&mut self, screen: &mut Screen) -> io::Result<()> {
        terminal::while_taken(|| self.terminal.draw(|frame| screen.draw(frame)).map(drop))
    }

    /// Gives the terminal back while `other` runs, then takes it again.
    ///
    /// # Errors
    /// The terminal cannot be used any more.
    pub fn lend<T>(&mut self, other: impl FnOnce() -> T) -> io::Result<T> {
        terminal::give_screen()?;
        let result = other();
        self.take_again()?;
        Ok(result)
    }

    /// Takes the terminal again after another program may have used it.
    ///
    /// # Errors
    /// The terminal cannot be used any more.
    pub fn take_again(&mut self) -> io::Result<()> {
        terminal::take_screen()?;
        self.redraw()
    }

    /// Clears the terminal, so that the next frame is drawn in full.
    ///
    /// # Errors
    /// Writing to the terminal failed.
    pub fn redraw(&mut self) -> io::Result<()> {
        terminal::while_taken(|| self.terminal.clear())
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        terminal::restore();
    }
}
