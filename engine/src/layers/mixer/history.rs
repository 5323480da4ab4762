//! The inputs that a convolution over a few tokens sees: those of the tokens before the present ones, which
//! the state keeps, and those of the present ones. It must not know what is convolved.

/// Inputs in the order of their tokens.
#[derive(Clone, Copy)]
pub struct History<'a> {
    /// Of the tokens before, `[kernel - 1, width]`.
    pub before: &'a [f32],
    /// Of the present tokens, `[tokens, width]`.
    pub present: &'a [f32],
    /// Channels.
    pub width: usize,
}

impl History<'_> {
    /// The convolution of a channel at present token `token`, added to `sum` in the order of the taps. The
    /// last tap is for the token itself.
    pub fn convolve(self, token: usize, channel: usize, taps: &[f32], mut sum: f32) -> f32 {
        for (tap, weight) in taps.iter().enumerate() {
            let input = match (token + tap).checked_sub(taps.len() - 1) {
                None => self.before[(token + tap) * self.width + channel],
                Some(now) => self.present[now * self.width + channel],
            };
            sum += weight * input;
        }
        sum
    }
}

/// Makes `before`, `[kernel - 1, width]`, what the tokens after the present ones see.
pub fn keep_last(before: &mut [f32], present: &[f32], width: usize) {
    let (kept, tokens) = (before.len() / width, present.len() / width);
    for row in 0..kept {
        match (row + tokens).checked_sub(kept) {
            None => before.copy_within((row + tokens) * width..(row + tokens + 1) * width, row * width),
            Some(now) => {
                before[row * width..(row + 1) * width]
                    .copy_from_slice(&present[now * width..(now + 1) * width]);
            }
        }
    }
}
