//! A model that attacks the terminal, on the full screen.

use moelten_testing::skip;

use crate::common::hostile::hostile;
use crate::tmux::Terminal;

#[test]
fn b68_on_the_full_screen_too() {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(hostile(&folder), terminal.file("model.gguf")).unwrap();
    terminal.begin("--max-tokens 8 --seed 1 model.gguf");
    terminal.see("Type a message");
    terminal.enter("hello");
    terminal.see("tok/s, context");
    let title = terminal.command().args(["display-message", "-p", "#{pane_title}"]).output().unwrap();
    assert!(!String::from_utf8(title.stdout).unwrap().contains("owned"));
    let buffers = terminal.command().arg("list-buffers").output().unwrap();
    assert!(buffers.stdout.is_empty(), "nothing went to the clipboard: {buffers:?}");
    terminal.press("C-d");
    terminal.over(0);
}
