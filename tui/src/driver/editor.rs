//! The person's own editor.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lets the person change a text in `$VISUAL`, `$EDITOR` or vi.
///
/// # Errors
/// An editor that cannot be run or that says that it failed, in words.
pub fn edit(text: &str) -> Result<String, String> {
    let path = std::env::temp_dir().join(format!("moelten-{}.md", std::process::id()));
    let result = edit_file(&path, text);
    // Gone or never made: either way it is no longer there.
    let _ = std::fs::remove_file(&path);
    result
}

fn edit_file(path: &PathBuf, text: &str) -> Result<String, String> {
    write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    // The variable may hold options, and a path with blanks in quotes: a shell knows how to read it.
    let status = Command::new("sh").args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(path).status();
    match status {
        Ok(status) if status.success() => {
            std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
        }
        Ok(status) => Err(format!("{editor} ended with {status}; nothing was changed.")),
        Err(error) => Err(format!("{editor} cannot be run: {error}; $EDITOR names another.")),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(text.as_bytes())
}
