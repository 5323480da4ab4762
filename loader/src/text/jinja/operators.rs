//! Arithmetic as Python computes it. It must not know expressions.

use super::datum::{Datum, Form};
use super::meter::{Growing, Meter};
use super::percent;
use super::problem::{Done, Problem};
use super::syntax::Arithmetic;

/// `a operator b`.
///
/// # Errors
/// Types that do not go together, division by zero, numbers of more than 127 bits.
pub(super) fn arithmetic(meter: &Meter, operator: Arithmetic, a: &Datum, b: &Datum) -> Done<Datum> {
    if let Datum::Undefined(message) = a {
        return Err(Problem::failed(&**message));
    }
    match (operator, a) {
        (Arithmetic::Remainder, Datum::Text(pattern)) => {
            return percent::format(meter, pattern, b).map(Datum::text);
        }
        (Arithmetic::Add | Arithmetic::Multiply, _) => {
            if let Some(made) = joined(meter, operator, a, b)? {
                return Ok(made);
            }
        }
        _ => {}
    }
    if let Datum::Undefined(message) = b {
        return Err(Problem::failed(&**message));
    }
    let made = match (a.as_int(), b.as_int()) {
        (Some(a), Some(b)) => whole(operator, a, b)?,
        _ => match (a.as_float(), b.as_float()) {
            (Some(a), Some(b)) => Some(broken(operator, a, b)?),
            _ => None,
        },
    };
    made.ok_or_else(|| {
        let sign = sign(operator);
        let (a, b) = (a.type_name(), b.type_name());
        Problem::failed(format!("unsupported operand type(s) for {sign}: '{a}' and '{b}'"))
    })
}

fn sign(operator: Arithmetic) -> &'static str {
    match operator {
        Arithmetic::Add => "+",
        Arithmetic::Subtract => "-",
        Arithmetic::Multiply => "*",
        Arithmetic::Divide => "/",
        Arithmetic::FloorDivide => "//",
        Arithmetic::Remainder => "%",
        Arithmetic::Power => "**",
    }
}

/// Sums and multiples of texts and lists.
fn joined(meter: &Meter, operator: Arithmetic, a: &Datum, b: &Datum) -> Done<Option<Datum>> {
    let times =
        |count: &Datum| count.as_int().map(|count| usize::try_from(count.max(0)).unwrap_or(usize::MAX));
    match (operator, a, b) {
        (Arithmetic::Add, Datum::Text(a), Datum::Text(b)) => {
            meter.bytes(a.len() + b.len())?;
            Ok(Some(Datum::text([&**a, &**b].concat())))
        }
        (Arithmetic::Add, Datum::Seq(form, a), Datum::Seq(other, b))
            if form == other && matches!(form, Form::List | Form::Tuple) =>
        {
            meter.items(a.list.len() + b.list.len())?;
            Datum::seq(meter, *form, a.list.iter().chain(&b.list).cloned().collect()).map(Some)
        }
        (Arithmetic::Multiply, Datum::Text(text), count)
        | (Arithmetic::Multiply, count, Datum::Text(text)) => {
            let Some(count) = times(count) else { return Ok(None) };
            let mut out = Growing::new(meter);
            out.push_times(text, count)?;
            Ok(Some(Datum::text(out.finish())))
        }
        (Arithmetic::Multiply, Datum::Seq(form, items), count)
        | (Arithmetic::Multiply, count, Datum::Seq(form, items))
            if matches!(form, Form::List | Form::Tuple) =>
        {
            let Some(count) = times(count) else { return Ok(None) };
            meter.items(items.list.len().saturating_mul(count))?;
            // An empty list has no items however often it is repeated.
            let count = if items.list.is_empty() { 0 } else { count };
            Datum::seq(meter, *form, std::iter::repeat_n(&items.list, count).flatten().cloned().collect())
                .map(Some)
        }
        _ => Ok(None),
    }
}

fn too_large() -> Problem {
    Problem::limit("a number has more than 127 bits")
}

fn by_zero() -> Problem {
    Problem::failed("division by zero")
}

fn whole(operator: Arithmetic, a: i128, b: i128) -> Done<Option<Datum>> {
    let made = match operator {
        Arithmetic::Add => a.checked_add(b),
        Arithmetic::Subtract => a.checked_sub(b),
        Arithmetic::Multiply => a.checked_mul(b),
        Arithmetic::Divide if b == 0 => return Err(by_zero()),
        Arithmetic::Divide => return Ok(Some(Datum::Float(a as f64 / b as f64))),
        Arithmetic::FloorDivide | Arithmetic::Remainder if b == 0 => return Err(by_zero()),
        Arithmetic::FloorDivide => a.checked_div_euclid(b).and_then(|quotient| {
            // Euclid's remainder is never negative, Python's has the sign of the divisor.
            if b < 0 && a.checked_rem_euclid(b)? != 0 { quotient.checked_sub(1) } else { Some(quotient) }
        }),
        Arithmetic::Remainder => {
            a.checked_rem(b).map(|rest| if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
        }
        Arithmetic::Power if b < 0 => {
            if a == 0 {
                return Err(Problem::failed("0.0 cannot be raised to a negative power"));
            }
            return Ok(Some(Datum::Float((a as f64).powf(b as f64))));
        }
        Arithmetic::Power => match (a, u32::try_from(b)) {
            (0 | 1, _) => Some(if b == 0 { 1 } else { a }),
            (-1, _) => Some(if b % 2 == 0 { 1 } else { -1 }),
            (_, Ok(exponent)) => a.checked_pow(exponent),
            _ => None,
        },
    };
    made.map(|number| Some(Datum::Int(number))).ok_or_else(too_large)
}

fn broken(operator: Arithmetic, a: f64, b: f64) -> Done<Datum> {
    let made = match operator {
        Arithmetic::Add => a + b,
        Arithmetic::Subtract => a - b,
        Arithmetic::Multiply => a * b,
        Arithmetic::Divide | Arithmetic::FloorDivide | Arithmetic::Remainder if b == 0.0 => {
            return Err(by_zero());
        }
        Arithmetic::Divide => a / b,
        Arithmetic::FloorDivide => (a / b).floor(),
        Arithmetic::Remainder => {
            let rest = a % b;
            if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
        }
        Arithmetic::Power => a.powf(b),
    };
    Ok(Datum::Float(made))
}
