//! Resizing as Pillow does it with its bilinear filter: to the bit, in fixed point, columns before rows. Rows
//! come one by one, and only sums of the result are kept. It must not know files.

/// Bits after the point of weights.
const BITS: u32 = 32 - 8 - 2;
/// Half of the last place.
const HALF: i32 = 1 << (BITS - 1);

/// From how many pixels along an axis each pixel of the result is made, and with which weights.
struct Axis {
    /// The first pixel and where its weights are, by pixel of the result.
    spans: Vec<(usize, std::ops::Range<usize>)>,
    weights: Vec<i32>,
}

impl Axis {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "sides are below 2^17, weights at most 1"
    )]
    fn new(from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        // An image that gets larger takes the two nearest pixels, one that gets smaller all that it covers.
        let reach = scale.max(1.0);
        let (mut spans, mut weights) = (Vec::with_capacity(to), Vec::new());
        for pixel in 0..to {
            let centre = (pixel as f64 + 0.5) * scale;
            let first = (centre - reach + 0.5).max(0.0) as usize;
            let end = ((centre + reach + 0.5) as usize).min(from);
            let part = |at: usize| (1.0 - ((at as f64 - centre + 0.5) / reach).abs()).max(0.0);
            let total: f64 = (first..end).map(part).sum();
            let start = weights.len();
            weights.extend((first..end).map(|at| (part(at) / total * f64::from(1 << BITS) + 0.5) as i32));
            spans.push((first, start..weights.len()));
        }
        Self { spans, weights }
    }
}

/// Takes an image row by row.
pub struct Resizer {
    columns: Axis,
    rows: Axis,
    /// Rows taken so far.
    taken: usize,
    /// The first row of the result that may still grow.
    open: usize,
    /// The last row with its columns resized.
    row: Vec<u8>,
    /// `[height, width, 3]` of the result.
    sums: Vec<i32>,
}

impl Resizer {
    /// From one width and height to others.
    pub fn new((width, height): (usize, usize), (to_width, to_height): (usize, usize)) -> Self {
        Self {
            columns: Axis::new(width, to_width),
            rows: Axis::new(height, to_height),
            taken: 0,
            open: 0,
            row: vec![0; to_width * 3],
            sums: vec![HALF; to_width * to_height * 3],
        }
    }

    /// Takes the next row, `[width, 3]`.
    pub fn add(&mut self, row: &[u8]) {
        for (out, (first, at)) in self.row.chunks_exact_mut(3).zip(&self.columns.spans) {
            let mut sums = [HALF; 3];
            let pixels = row.chunks_exact(3).skip(*first);
            for (pixel, weight) in pixels.zip(self.columns.weights.get(at.clone()).unwrap_or_default()) {
                sums.iter_mut().zip(pixel).for_each(|(sum, &value)| *sum += i32::from(value) * weight);
            }
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = byte(sum));
        }
        let length = self.row.len();
        let results = self.sums.chunks_exact_mut(length).zip(&self.rows.spans);
        for (index, (sums, (first, at))) in results.enumerate().skip(self.open) {
            if self.taken < *first {
                break;
            }
            match self.rows.weights.get(at.clone()).and_then(|weights| weights.get(self.taken - first)) {
                Some(weight) => {
                    sums.iter_mut().zip(&self.row).for_each(|(sum, &x)| *sum += i32::from(x) * weight);
                }
                None => self.open = self.open.max(index + 1),
            }
        }
        self.taken += 1;
    }

    /// The result, `[height, width, 3]`.
    pub fn finish(&self) -> Vec<u8> {
        self.sums.iter().map(|&sum| byte(sum)).collect()
    }
}

/// A sum without its places after the point.
fn byte(sum: i32) -> u8 {
    u8::try_from((sum >> BITS).clamp(0, 255)).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Pillow 13.0.0 makes of a made image: `Image.fromarray(a).resize(size, Image.BILINEAR)`.
    #[test]
    fn the_bytes_are_those_of_pillow() {
        for (from, to, expected) in CASES {
            let pixel = |at: usize| ((at * at * 7 + at * 13) % 251) as u8;
            let image: Vec<u8> = (0..from.0 * from.1 * 3).map(pixel).collect();
            let mut resizer = Resizer::new(*from, *to);
            image.chunks_exact(from.0 * 3).for_each(|row| resizer.add(row));
            assert_eq!(resizer.finish(), *expected, "{from:?} to {to:?}");
        }
    }

    type Case = ((usize, usize), (usize, usize), &'static [u8]);
    const CASES: &[Case] = &[
        (
            (7, 5),
            (3, 2),
            &[109, 137, 121, 119, 88, 122, 90, 116, 95, 157, 149, 103, 110, 81, 121, 127, 95, 112],
        ),
        (
            (3, 4),
            (5, 6),
            &[
                0, 20, 54, 41, 78, 128, 102, 164, 240, 88, 175, 126, 79, 183, 50, 91, 49, 146, 107, 82, 145,
                131, 131, 144, 80, 180, 144, 46, 213, 143, 192, 66, 205, 175, 83, 155, 149, 108, 80, 74, 183,
                155, 24, 233, 205, 233, 24, 80, 183, 74, 130, 108, 149, 205, 83, 175, 131, 66, 192, 81, 213,
                46, 144, 180, 80, 145, 131, 131, 146, 82, 107, 147, 49, 91, 148, 183, 79, 240, 175, 88, 166,
                164, 102, 54, 78, 41, 169, 20, 0, 245,
            ],
        ),
        (
            (13, 2),
            (4, 3),
            &[
                87, 121, 142, 130, 128, 140, 130, 129, 142, 79, 50, 146, 112, 136, 90, 115, 113, 97, 149,
                148, 110, 106, 66, 124, 136, 150, 38, 99, 97, 54, 168, 167, 77, 133, 82, 102,
            ],
        ),
        (
            (4, 4),
            (4, 4),
            &[
                0, 20, 54, 102, 164, 240, 79, 183, 50, 182, 77, 237, 160, 97, 48, 13, 243, 236, 243, 13, 48,
                97, 160, 237, 77, 182, 50, 183, 79, 240, 164, 102, 54, 20, 0, 245, 2, 24, 60, 110, 174, 1,
                93, 199, 68, 202, 99, 10,
            ],
        ),
    ];
}
