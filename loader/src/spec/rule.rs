//! Another choice of experts than a model's own: fewer, more, or those over a threshold (DS-MoE, arXiv
//! 2404.05567, section 3.3). It must not know files.

use std::str::FromStr;

use super::{ModelSpec, MoeSpec, Op, RouterInput, RouterSpec, Select};

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
    /// The best so many.
    Best(usize),
    /// All of them.
    All,
    /// Those whose share of a softmax over all is over `eps` times an equal share, at most so many.
    Over {
        /// From 0 up to 1, so that there is always one.
        eps: f32,
        /// `None` for any number.
        most: Option<usize>,
    },
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
            let forms = "a number, all, over:EPS or over:EPS:NUMBER with EPS from 0 up to 1";
            RuleError(format!("\"{text}\" is no choice of experts: it is {forms}, after attn= for attention"))
        };
        let count = |text: &str| text.parse().ok().filter(|&count: &usize| count > 0).ok_or_else(wrong);
        if text == "all" {
            return Ok(Self::All);
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
    /// [`RuleError`] for a model without such experts, more experts than there are, or a threshold where there
    /// is no softmax over all experts. The model is as it was then.
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
    let RouterInput::Groups { size } = moe.router_input else {
        if moe.weighs_inputs && choice != ExpertChoice::Best(1) {
            return Err(RuleError("a token of this model has one expert, whose input is weighed".to_owned()));
        }
        return change(&mut moe.router, moe.experts, choice);
    };
    // They follow the choice before them.
    let most = match choice {
        ExpertChoice::Best(count) => count,
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
    let (count, eps) = match choice {
        ExpertChoice::All => (experts, None),
        ExpertChoice::Best(count) => (few(count)?, None),
        ExpertChoice::Over { eps, most } => (few(most.unwrap_or(experts))?, Some(eps)),
    };
    match (&mut router.select, eps) {
        (&mut (Select::SoftmaxTopK { renormalise, .. } | Select::Threshold { renormalise, .. }), _) => {
            router.select = match eps {
                None => Select::SoftmaxTopK { k: count, renormalise },
                Some(eps) => Select::Threshold { eps, most: count, renormalise },
            };
        }
        (Select::Scored { k, groups, .. }, None) => {
            if let Some(groups) = groups.filter(|groups| experts / groups.count * groups.kept < count) {
                let most = experts / groups.count * groups.kept;
                return Err(RuleError(format!("the router chooses among {most} experts in its best groups")));
            }
            *k = count;
        }
        (Select::Scored { .. }, Some(_)) => {
            return Err(RuleError(
                "the router has no plain softmax that a threshold could be for".to_owned(),
            ));
        }
        (Select::SparseMixer { .. }, _) => {
            return Err(RuleError("SparseMixer always chooses two experts".to_owned()));
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
        for wrong in ["", "0", "-1", "over", "over:1", "over:nan", "over:0.5:0", "1,2", "attn=", "some"] {
            let message = rule(wrong).unwrap_err().to_string();
            assert!(message.contains(&format!("\"{}\"", wrong.trim_start_matches("attn="))), "{message}");
        }
    }

    #[test]
    fn a_rule_changes_what_fits_and_refuses_the_rest() {
        let plain =
            |select| RouterSpec { bias: false, select, scale: 1.0, listed: false, expert_scales: false };
        let mut router = plain(Select::SoftmaxTopK { k: 2, renormalise: true });
        let over = ExpertChoice::Over { eps: 0.5, most: None };
        change(&mut router, 8, over).unwrap();
        assert_eq!(router.select, Select::Threshold { eps: 0.5, most: 8, renormalise: true });
        change(&mut router, 8, ExpertChoice::Best(3)).unwrap();
        assert_eq!(router.select.max_experts(), 3);
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
