//! Another choice of experts than a model's own: fewer, more, or those over a threshold (DS-MoE, arXiv
//! 2404.05567, section 3.3). It must not know files.

use std::str::FromStr;

use crate::spec::{ModelSpec, MoeSpec, Op, RouterInput, RouterSpec, Second, Select};

/// How experts are chosen in place of a model's own way. Experts that are listed by token stay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertRule {
    /// Of feed-forward experts; `None` for the model's own way.
    pub experts: Option<ExpertChoice>,
    /// Of attention experts.
    pub heads: Option<ExpertChoice>,
}

/// Which experts of a token are used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ExpertChoice {
    /// This number of the best.
    Best(usize),
    /// All of them.
    All,
    /// Those whose share of a softmax over all is over `eps` times an equal share, at most `most`.
    Over {
        /// From 0 up to 1, so that there is always one.
        eps: f32,
        /// `None` for any number.
        most: Option<usize>,
    },
    /// The best, and the second one where this says so.
    Two(Second),
}

/// Why a rule does not fit a model, or is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RuleError(String);

impl FromStr for ExpertRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let mut rule = Self { experts: None, heads: None };
        for part in text.split(',') {
            let (place, choice) = match part.strip_prefix("attn=") {
                Some(choice) => (&mut rule.heads, choice),
                None => (&mut rule.experts, part),
            };
            if place.replace(choice.parse()?).is_some() {
                return Err(RuleError(format!("\"{text}\" has two choices for the same experts")));
            }
        }
        Ok(rule)
    }
}

impl FromStr for ExpertChoice {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let wrong = || {
            let over = "over:EPS or over:EPS:NUMBER with EPS from 0 up to 1";
            let forms = format!("a number, all, {over}, two:PART or two:chance:SEED");
            RuleError(format!("\"{text}\" is no choice of experts: it is {forms}, after attn= for attention"))
        };
        let count = |text: &str| text.parse().ok().filter(|&count: &usize| count > 0).ok_or_else(wrong);
        if text == "all" {
            return Ok(Self::All);
        }
        if let Some(seed) = text.strip_prefix("two:chance:") {
            return Ok(Self::Two(Second::Chance { seed: seed.parse().map_err(|_| wrong())? }));
        }
        if let Some(part) = text.strip_prefix("two:") {
            let part = part.parse().ok().filter(|part| (0.0..=0.5).contains(part)).ok_or_else(wrong)?;
            return Ok(Self::Two(Second::Over(part)));
        }
        let Some(over) = text.strip_prefix("over:") else { return Ok(Self::Best(count(text)?)) };
        let (eps, most) = match over.split_once(':') {
            None => (over, None),
            Some((eps, most)) => (eps, Some(count(most)?)),
        };
        let eps = eps.parse().ok().filter(|eps| (0.0..1.0).contains(eps)).ok_or_else(wrong)?;
        Ok(Self::Over { eps, most })
    }
}

impl ModelSpec {
    /// Chooses experts by `rule` in place of the model's own way.
    ///
    /// # Errors
    /// [`RuleError`] for a model without such experts, more experts than there are, or a threshold where
    /// there is no softmax over all experts. The model is as it was then.
    pub fn choose_experts(&mut self, rule: &ExpertRule) -> Result<(), RuleError> {
        let mut layers = self.layers.clone();
        let (mut experts, mut heads) = (0, 0);
        for branch in layers.iter_mut().flat_map(|layer| &mut layer.branches) {
            match (&mut branch.op, rule.experts, rule.heads) {
                (Op::Moe(moe), Some(choice), _) => {
                    experts += 1;
                    change_moe(moe, choice)?;
                }
                (Op::HeadExperts(spec), _, Some(choice)) => {
                    heads += 1;
                    let own = spec.own_heads();
                    change(&mut spec.router, spec.experts, choice)?;
                    spec.attention.heads = own * spec.router.select.max_experts();
                }
                _ => {}
            }
        }
        for (wanted, found, kind) in
            [(rule.experts.is_some(), experts, "experts"), (rule.heads.is_some(), heads, "attention experts")]
        {
            if wanted && found == 0 {
                return Err(RuleError(format!("the model has no {kind} to choose from")));
            }
        }
        self.layers = layers;
        Ok(())
    }
}

fn change_moe(moe: &mut MoeSpec, choice: ExpertChoice) -> Result<(), RuleError> {
    let RouterInput::Groups { size, .. } = moe.router_input else {
        if moe.weighs_inputs && choice != ExpertChoice::Best(1) {
            return Err(RuleError("a token of this model has one expert, whose input is weighed".to_owned()));
        }
        return change(&mut moe.router, moe.experts, choice);
    };
    // They follow the choice before them.
    let most = match choice {
        ExpertChoice::Best(count) => count,
        ExpertChoice::Two(_) => 2,
        ExpertChoice::All | ExpertChoice::Over { most: None, .. } => moe.experts * size,
        ExpertChoice::Over { most: Some(most), .. } => most,
    };
    moe.router.select = Select::SoftmaxTopK { k: most.min(moe.experts), renormalise: true };
    Ok(())
}

/// Changes the choice of a router among `experts` experts.
fn change(router: &mut RouterSpec, experts: usize, choice: ExpertChoice) -> Result<(), RuleError> {
    if router.listed {
        return Ok(());
    }
    let few = |count: usize| match count <= experts {
        true => Ok(count),
        false => Err(RuleError(format!("{count} experts of a token, of {experts} in a layer"))),
    };
    let count = match choice {
        ExpertChoice::All => experts,
        ExpertChoice::Best(count) => few(count)?,
        ExpertChoice::Over { most, .. } => few(most.unwrap_or(experts))?,
        ExpertChoice::Two(_) => few(2)?,
    };
    let plain = match router.select {
        Select::SoftmaxTopK { renormalise, .. } | Select::Threshold { renormalise, .. } => Some(renormalise),
        Select::TopTwo { .. } => Some(true),
        Select::Scored { .. } | Select::SparseMixer { .. } => None,
    };
    if let Some(renormalise) = plain {
        router.select = match choice {
            ExpertChoice::All | ExpertChoice::Best(_) => Select::SoftmaxTopK { k: count, renormalise },
            ExpertChoice::Over { eps, .. } => Select::Threshold { eps, most: count, renormalise },
            ExpertChoice::Two(second) => Select::TopTwo { second },
        };
        return Ok(());
    }
    match (&mut router.select, choice) {
        (Select::Scored { k, groups, .. }, ExpertChoice::All | ExpertChoice::Best(_)) => {
            if let Some(groups) = groups.filter(|groups| experts / groups.count * groups.kept < count) {
                let most = experts / groups.count * groups.kept;
                return Err(RuleError(format!("the router chooses among {most} experts in its best groups")));
            }
            *k = count;
        }
        (Select::SparseMixer { .. }, _) => {
            return Err(RuleError("SparseMixer always chooses two experts".to_owned()));
        }
        _ => {
            return Err(RuleError(
                "the router has no plain softmax that a threshold could be for".to_owned(),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_from_text() {
        let rule = |text: &str| text.parse::<ExpertRule>();
        let both = ExpertRule { experts: Some(ExpertChoice::Best(6)), heads: Some(ExpertChoice::All) };
        assert_eq!(rule("6,attn=all"), Ok(both));
        let over = ExpertChoice::Over { eps: 0.48, most: Some(4) };
        assert_eq!(rule("over:0.48:4"), Ok(ExpertRule { experts: Some(over), heads: None }));
        assert_eq!(rule("attn=over:0").map(|rule| rule.experts), Ok(None));
        for (text, second) in [("two:0.2", Second::Over(0.2)), ("two:chance:7", Second::Chance { seed: 7 })] {
            assert_eq!(rule(text), Ok(ExpertRule { experts: Some(ExpertChoice::Two(second)), heads: None }));
        }
        for wrong in ["two", "two:", "two:0.6", "two:-0.1", "two:chance", "two:chance:x"] {
            assert!(rule(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "0", "-1", "over", "over:1", "over:nan", "over:0.5:0", "1,2", "attn=", "some"] {
            let message = rule(wrong).unwrap_err().to_string();
            assert!(message.contains(&format!("\"{}\"", wrong.trim_start_matches("attn="))), "{message}");
        }
    }

    #[test]
    fn a_rule_changes_what_fits_and_refuses_the_rest() {
        let plain = |select| RouterSpec {
            bias: false,
            select,
            scale: 1.0,
            listed: false,
            expert_scales: false,
            capacity: None,
        };
        let mut router = plain(Select::SoftmaxTopK { k: 2, renormalise: true });
        let over = ExpertChoice::Over { eps: 0.5, most: None };
        change(&mut router, 8, over).unwrap();
        assert_eq!(router.select, Select::Threshold { eps: 0.5, most: 8, renormalise: true });
        change(&mut router, 8, ExpertChoice::Best(3)).unwrap();
        assert_eq!(router.select.max_experts(), 3);
        let second = Second::Over(0.2);
        change(&mut router, 8, ExpertChoice::Two(second)).unwrap();
        assert_eq!((&router.select, router.select.max_experts()), (&Select::TopTwo { second }, 2));
        assert!(change(&mut router, 1, ExpertChoice::Two(second)).is_err(), "there is no second expert");
        let message = change(&mut router, 8, ExpertChoice::Best(9)).unwrap_err().to_string();
        assert_eq!(message, "9 experts of a token, of 8 in a layer");
        let before = router.clone();
        router.listed = true;
        change(&mut router, 8, ExpertChoice::All).unwrap();
        assert_eq!(router.select, before.select, "experts that are listed stay");
        let mut router = plain(Select::SparseMixer { jitter: 0.01 });
        assert!(change(&mut router, 8, ExpertChoice::Best(1)).is_err());
    }
}
