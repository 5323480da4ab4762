//! Waits that are visible: work that takes longer than a second says what it is, how far it has come and for
//! how long it runs. It must not know what the work does.

use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use moelten_engine::CopyProgress;
use moelten_loader::supervise::{room_for_threads, supervised_in};
use moelten_tui::chat::TellProgress;
use moelten_tui::figures;
use moelten_tui::terminal::{self, Notes, Tone};

/// Threads that there must be room for before a wait is shown.
const THREADS_FREE: usize = 6;
/// Shorter waits show nothing.
const DELAY: Duration = Duration::from_millis(900);
/// Time between updates of a line that can be overwritten, and of one that cannot.
const STEP: Duration = Duration::from_millis(200);
const STEP_PLAIN: Duration = Duration::from_secs(10);

/// Shows waits where a full screen has the terminal.
static SCREEN: OnceLock<TellProgress> = OnceLock::new();

/// Has the full screen of this process show waits.
pub fn show_on_screen(tell: TellProgress) {
    let _ = SCREEN.set(tell);
}

/// Does `work`. If that takes longer than a second, stderr or the full screen shows `what`, the bytes that
/// were copied with their rate, and the time.
pub fn during<T>(what: &str, copying: Option<&CopyProgress>, work: impl FnOnce() -> T) -> T {
    let notes = Notes::detect();
    // Where memory is as tight as this, the work may need all of it.
    let hidden = if terminal::is_taken() { SCREEN.get().is_none() } else { notes.quiet };
    if hidden || room_for_threads(THREADS_FREE).is_err() {
        return work();
    }
    let (sender, ended) = channel::<()>();
    let (begins, begun) = channel::<()>();
    std::thread::scope(|scope| {
        let watching = supervised_in(scope, "wait", move || {
            drop(begins);
            show(what, copying, notes, &ended);
        });
        // A thread that begins needs memory that the work must not take meanwhile.
        if watching.is_ok() {
            let _ = begun.recv();
        }
        let result = work();
        drop(sender);
        result
    })
}

/// Shows the wait until the work has ended.
fn show(what: &str, copying: Option<&CopyProgress>, notes: Notes, ended: &Receiver<()>) {
    let (started, mut wait, mut shown) = (Instant::now(), DELAY, 0);
    while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        let text = words(what, copying, started.elapsed());
        if let Some(tell) = SCREEN.get().filter(|_| terminal::is_taken()) {
            tell(text);
            wait = STEP;
            continue;
        }
        if !notes.terminal {
            notes.line(Tone::Dim, &text);
            wait = STEP_PLAIN;
            continue;
        }
        let text: String = text.chars().take(notes.columns() - 1).collect();
        overwrite(&notes.dress(Tone::Dim, &text), shown - text.chars().count().min(shown));
        (shown, wait) = (text.chars().count(), STEP);
    }
    if shown > 0 {
        overwrite(&" ".repeat(shown), 0);
        overwrite("", 0);
    }
}

/// Blanks at the end, because not every terminal has an erasing sequence. A closed stderr is ignored.
fn overwrite(text: &str, blanks: usize) {
    let mut out = std::io::stderr();
    let _ = write!(out, "\r{text}{}", " ".repeat(blanks)).and_then(|()| out.flush());
}

/// `opening the model: 1.2/8.3 GiB copied, 900 MiB/s, 2 s, about 8 s left`.
fn words(what: &str, copying: Option<&CopyProgress>, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let known =
        copying.map(|copying| (copying.done.load(Ordering::Relaxed), copying.total.load(Ordering::Relaxed)));
    match known.filter(|&(done, total)| done > 0 && done < total) {
        None => format!("{what}: {seconds:.0} s"),
        Some((done, total)) => {
            let rate = done as f64 / seconds.max(1e-3);
            let left = (total - done) as f64 / rate;
            let (of, rate) = (figures::bytes_of(done, total), figures::bytes(rate as u64));
            format!("{what}: {of} copied, {rate}/s, {seconds:.0} s, about {left:.0} s left")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_says_what_how_far_and_how_long() {
        let two = Duration::from_secs(2);
        assert_eq!(words("tokenising", None, two), "tokenising: 2 s");
        let copying = CopyProgress::default();
        assert_eq!(words("opening", Some(&copying), two), "opening: 2 s");
        copying.total.store(6 << 29, Ordering::Relaxed);
        copying.done.store(3 << 29, Ordering::Relaxed);
        let expected = "opening: 1.5/3 GiB copied, 768 MiB/s, 2 s, about 2 s left";
        assert_eq!(words("opening", Some(&copying), two), expected);
    }

    #[test]
    fn the_result_and_a_panic_of_the_work_come_back() {
        assert_eq!(during("nothing", None, || 7), 7);
        let caught = std::panic::catch_unwind(|| during("nothing", None, || panic!("found")));
        assert!(caught.is_err());
    }
}
