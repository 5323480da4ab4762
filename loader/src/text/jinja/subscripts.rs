//! Items and slices as Python takes them. It must not know expressions.

use super::datum::{Datum, Form};
use super::given::{int_or_none, wrong};
use super::meter::Meter;
use super::problem::{Done, Problem};

/// `container[index]` for sequences, texts and mappings; `None` if there is no such item.
///
/// # Errors
/// Keys that no mapping has.
pub(super) fn item(meter: &Meter, container: &Datum, index: &Datum) -> Done<Option<Datum>> {
    if let Datum::Map(map) = container {
        // A list as key is no item either.
        return Ok(map.get(index).ok().flatten().cloned());
    }
    let Some(index) = index.as_int() else { return Ok(None) };
    let place = |count: usize| {
        let count = i128::try_from(count).ok()?;
        let at = if index < 0 { index.checked_add(count)? } else { index };
        usize::try_from(at).ok().filter(|_| at < count)
    };
    match container {
        Datum::Text(text) => {
            let count = container.len(meter)?;
            let c = place(count).and_then(|at| text.chars().nth(at));
            Ok(c.map(|c| Datum::text(&*c.encode_utf8(&mut [0; 4]))))
        }
        Datum::Seq(Form::List | Form::Tuple, items) => {
            Ok(place(items.list.len()).and_then(|at| items.list.get(at)).cloned())
        }
        Datum::Range(steps) => Ok(place(steps.count).map(|at| steps.get(at))),
        _ => Ok(None),
    }
}

/// `container[start:stop:step]`.
///
/// # Errors
/// Values that have no slices, and a step of 0.
pub(super) fn slice(meter: &Meter, container: &Datum, bounds: [Datum; 3]) -> Done<Datum> {
    if let Datum::Undefined(message) = container {
        return Err(Problem::failed(&**message));
    }
    let [start, stop, step] = &bounds;
    let (start, stop) = (int_or_none(Some(start))?, int_or_none(Some(stop))?);
    let step = int_or_none(Some(step))?.unwrap_or(1);
    if step == 0 {
        return Err(Problem::failed("slice step cannot be zero"));
    }
    let count = match container {
        Datum::Text(_) | Datum::Seq(Form::List | Form::Tuple, _) | Datum::Range(_) => container.len(meter)?,
        other => return Err(wrong(other, "a text or list to slice")),
    };
    let (first, count) = chosen(count, start, stop, step);
    let at = |n: usize| usize::try_from(first as i128 + step * n as i128).unwrap_or(usize::MAX);
    match container {
        Datum::Text(text) => {
            let made: String = if step > 0 {
                meter.bytes(text.len())?;
                let step = usize::try_from(step).unwrap_or(usize::MAX);
                text.chars().skip(first).step_by(step).take(count).collect()
            } else {
                meter.bytes(text.len().saturating_mul(4))?;
                let chars: Vec<char> = text.chars().collect();
                (0..count).filter_map(|n| chars.get(at(n))).collect()
            };
            Ok(Datum::text(made))
        }
        Datum::Seq(form, items) => {
            meter.items(count)?;
            Datum::seq(meter, *form, (0..count).filter_map(|n| items.list.get(at(n)).cloned()).collect())
        }
        Datum::Range(steps) => {
            meter.items(count)?;
            Datum::list(meter, (0..count).map(|n| steps.get(at(n))).collect())
        }
        other => Err(wrong(other, "a text or list to slice")),
    }
}

/// The first place of a slice of `count` items, and the number of places.
fn chosen(count: usize, start: Option<i128>, stop: Option<i128>, step: i128) -> (usize, usize) {
    let count = count as i128;
    // A slice that goes down may end before the first item.
    let (low, high) = if step > 0 { (0, count) } else { (-1, count - 1) };
    let place = |at: i128| if at < 0 { at.saturating_add(count).max(low) } else { at.min(high) };
    let first = start.map_or(if step > 0 { low } else { high }, place);
    let last = stop.map_or(if step > 0 { high } else { low }, place);
    let span = if step > 0 { last - first } else { first - last };
    if span <= 0 {
        return (0, 0);
    }
    let places = (span - 1) / step.checked_abs().unwrap_or(i128::MAX) + 1;
    (usize::try_from(first).unwrap_or(0), usize::try_from(places).unwrap_or(0))
}
