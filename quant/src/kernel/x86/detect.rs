//! Whether this process may use AMX tiles, which needs more than a bit of CPUID. It must not know what they
//! are used for.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

/// Why this process may not use AMX tiles of int8, if it may not. Linux gives a process the state component
/// only when it asks, before the threads that will use it start; the answer of the first call is kept.
pub(crate) fn amx_obstacle() -> Option<&'static str> {
    static OBSTACLE: OnceLock<Option<&'static str>> = OnceLock::new();
    *OBSTACLE.get_or_init(|| match (is_present(), cfg!(target_os = "linux")) {
        (false, _) => Some("amx_int8"),
        (true, false) => Some("a way to ask this system for amx tiles"),
        (true, true) if ask_permission() => None,
        (true, true) => Some("the system's permission to use amx tiles (arch_prctl refused it)"),
    })
}

/// CPUID leaf 7 has AMX-TILE (EDX bit 24) and AMX-INT8 (bit 25), and XCR0 says that the system saves tile
/// configuration and data (bits 17 and 18). Intel 64 and IA-32 Architectures Software Developer's Manual,
/// volume 1, 18.2.
fn is_present() -> bool {
    const TILES_AND_INT8: u32 = 0b11 << 24;
    const OSXSAVE: u32 = 1 << 27;
    const TILE_STATE: u64 = 0b11 << 17;
    if __cpuid_count(0, 0).eax < 7 || __cpuid_count(1, 0).ecx & OSXSAVE == 0 {
        return false;
    }
    if __cpuid_count(7, 0).edx & TILES_AND_INT8 != TILES_AND_INT8 {
        return false;
    }
    let (low, high): (u32, u32);
    // SAFETY: CPUID said that XGETBV may be used; register 0 always exists. It reads nothing else.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    (u64::from(high) << 32 | u64::from(low)) & TILE_STATE == TILE_STATE
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`; see the kernel's
/// `Documentation/arch/x86/xstate.rst`.
#[cfg(target_os = "linux")]
fn ask_permission() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let answer: i64;
    // SAFETY: the call changes what this process may use and touches no memory of ours; the kernel clobbers
    // rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    answer == 0
}

/// Other systems: not tried yet, so not offered.
#[cfg(not(target_os = "linux"))]
fn ask_permission() -> bool {
    false
}
