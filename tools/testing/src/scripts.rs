//! Texts of all scripts, for tests that draw them. It must not know how they are drawn.

/// Emoji with joiners, flags, skin colours, a heart in colour; Devanagari, Thai, Hebrew, Arabic; combining
/// marks; wide characters.
pub const TEXTS: [&str; 7] = [
    "family \u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f467} flags \u{1f1e9}\u{1f1ea}\u{1f1ef}\u{1f1f5} wave \u{1f44b}\u{1f3fd} heart \u{2764}\u{fe0f}",
    "\u{928}\u{92e}\u{938}\u{94d}\u{924}\u{947} \u{926}\u{941}\u{928}\u{93f}\u{92f}\u{93e}",
    "\u{e2a}\u{e27}\u{e31}\u{e2a}\u{e14}\u{e35}\u{e0a}\u{e32}\u{e27}\u{e42}\u{e25}\u{e01}",
    "\u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{5e2}\u{5d5}\u{5dc}\u{5dd} 123",
    "\u{645}\u{631}\u{62d}\u{628}\u{627} \u{628}\u{627}\u{644}\u{639}\u{627}\u{644}\u{645}",
    "e\u{301}a\u{308} Z\u{351}\u{36b}\u{343} n\u{303}",
    "\u{4e16}\u{754c} \u{d55c}\u{ad6d}\u{c5b4} \u{ff21}\u{ff22}",
];
