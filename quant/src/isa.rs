//! The instruction set tiers: their names, which of them this machine has, and the `MOELTEN_ISA` override.
//! What a tier does is `kernel`.

use std::fmt;

/// A tier of kernels. Within one, results never differ. Between tiers, products of quantised weights have
/// the same bits, but those of floats, norms and attention differ in the last ones, and that may change the
/// code of an activation or the choice of an expert: logits of a whole model can differ visibly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust, available on every machine.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-VNNI, over all that [`Isa::Avx2`] needs: laptops since 2021.
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI, over all that [`Isa::Avx2`] needs.
    Avx512Vnni,
    /// x86-64 with AMX tiles of int8, over all that [`Isa::Avx512Vnni`] needs.
    Amx,
    /// 64-bit ARM: NEON, which all these processors have.
    Neon,
    /// 64-bit ARM with `sdot` (FEAT_DotProd), over all that [`Isa::Neon`] needs: most since 2018.
    DotProd,
    /// 64-bit ARM with `smmla` (FEAT_I8MM), over all that [`Isa::DotProd`] needs: most since 2022.
    I8mm,
}

/// What machines of other processors lack.
#[cfg(any(not(target_arch = "aarch64"), fuzzing, test))]
const ARM: &str = "64-bit ARM processor";
/// What machines of other processors lack.
#[cfg(any(not(target_arch = "x86_64"), fuzzing, test))]
const X86: &str = "x86-64 processor";

/// `MOELTEN_ISA` names a tier that does not exist or that this machine lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsaError {
    /// The value of the variable.
    pub requested: String,
    /// The tiers of this machine, slowest first.
    pub available: Vec<Isa>,
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = if Isa::from_name(&self.requested).is_some() { "not on this machine" } else { "unknown" };
        let available: Vec<_> = self.available.iter().map(|isa| isa.name()).collect();
        let available = available.join(", ");
        write!(f, "MOELTEN_ISA={:?} is {known}; available: {available}", self.requested)
    }
}

impl std::error::Error for IsaError {}

impl Isa {
    /// Every tier of every processor; those of one processor slowest first.
    pub const ALL: [Self; 8] = [
        Self::Scalar,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512Vnni,
        Self::Amx,
        Self::Neon,
        Self::DotProd,
        Self::I8mm,
    ];

    /// The tiers that this machine can run, slowest first. [`Isa::Scalar`] is always there.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The fastest tier of this machine.
    pub fn best() -> Self {
        Self::ALL.into_iter().rfind(|isa| isa.is_available()).unwrap_or(Self::Scalar)
    }

    /// The tier of that name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|isa| isa.name().eq_ignore_ascii_case(name))
    }

    /// The name `MOELTEN_ISA` takes, e.g. `avx2`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx_vnni",
            Self::Avx512Vnni => "avx512_vnni",
            Self::Amx => "amx",
            Self::Neon => "neon",
            Self::DotProd => "dotprod",
            Self::I8mm => "i8mm",
        }
    }

    /// The tier that the environment variable `MOELTEN_ISA` names, or the best one if it is unset or empty.
    ///
    /// # Errors
    /// If the name is unknown or this machine lacks the tier.
    pub fn from_env() -> Result<Self, IsaError> {
        match std::env::var_os("MOELTEN_ISA") {
            Some(name) => Self::choose(&name.to_string_lossy()),
            None => Ok(Self::best()),
        }
    }

    /// Whether `MOELTEN_ISA` names a tier.
    pub fn is_forced() -> bool {
        std::env::var_os("MOELTEN_ISA").is_some_and(|name| !name.is_empty())
    }

    fn choose(requested: &str) -> Result<Self, IsaError> {
        match Self::from_name(requested) {
            _ if requested.is_empty() => Ok(Self::best()),
            Some(isa) if isa.is_available() => Ok(isa),
            _ => Err(IsaError { requested: requested.to_owned(), available: Self::available() }),
        }
    }

    /// What this machine lacks for the tier: instructions by their CPUID names, or a permission in words.
    /// Empty if it can run the tier.
    #[cfg(all(target_arch = "x86_64", not(any(fuzzing, test))))]
    pub fn missing(self) -> Vec<&'static str> {
        macro_rules! lacking {
            ($($name:tt)*) => {
                [$((!is_x86_feature_detected!($name)).then_some($name)),*].into_iter().flatten()
            };
        }
        let mut missing = Vec::new();
        if self >= Self::Neon {
            return vec![ARM];
        }
        if self >= Self::Avx2 {
            missing.extend(lacking!("avx2" "fma" "f16c"));
        }
        if self == Self::AvxVnni {
            missing.extend(lacking!("avxvnni"));
        }
        if self >= Self::Avx512Vnni {
            missing.extend(lacking!("avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vnni"));
        }
        if self == Self::Amx {
            missing.extend(crate::kernel::x86::detect::amx_obstacle());
        }
        missing
    }

    /// What this machine lacks for the tier: instructions by their names, or the processor. Empty if it can
    /// run the tier.
    #[cfg(all(target_arch = "aarch64", not(any(fuzzing, test))))]
    pub fn missing(self) -> Vec<&'static str> {
        macro_rules! lacking {
            ($($name:tt)*) => {
                [$((!std::arch::is_aarch64_feature_detected!($name)).then_some($name)),*].into_iter().flatten()
            };
        }
        match self {
            Self::Scalar => Vec::new(),
            Self::Neon => lacking!("neon").collect(),
            Self::DotProd => lacking!("neon" "dotprod").collect(),
            Self::I8mm => lacking!("neon" "dotprod" "i8mm").collect(),
            _ => vec![X86],
        }
    }

    /// What this machine lacks for the tier. Empty if it can run the tier. Some builds have the scalar tier
    /// alone: see `kernel.rs`.
    #[cfg(any(not(any(target_arch = "x86_64", target_arch = "aarch64")), fuzzing, test))]
    pub fn missing(self) -> Vec<&'static str> {
        match self {
            Self::Scalar => Vec::new(),
            _ if cfg!(any(fuzzing, test)) => vec!["a build with all tiers"],
            Self::Neon | Self::DotProd | Self::I8mm => vec![ARM],
            _ => vec![X86],
        }
    }

    /// Whether this machine has every instruction of the tier.
    pub(crate) fn is_available(self) -> bool {
        self.missing().is_empty()
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_nothing_chooses() {
        assert_eq!(Isa::choose("scalar"), Ok(Isa::Scalar));
        assert_eq!(Isa::choose(""), Ok(Isa::best()));
    }

    #[test]
    fn an_unknown_tier_is_an_error_that_names_the_available_ones() {
        let error = Isa::choose("mmx").unwrap_err().to_string();
        assert!(error.contains("mmx") && error.contains("unknown") && error.contains("scalar"), "{error}");
    }
}
