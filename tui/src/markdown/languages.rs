//! The lexical rules of the languages that code blocks are coloured for. Data only.

/// The lexical rules of a group of similar languages.
pub(super) struct Language {
    /// Names that a code fence may give.
    pub names: &'static [&'static str],
    /// Marks that begin a comment to the end of the line.
    pub line: &'static [&'static str],
    /// The marks around a block comment.
    pub block: Option<(&'static str, &'static str)>,
    /// The marks around a string literal; a literal with a mark of three characters may span lines.
    pub quotes: &'static [&'static str],
    /// Keywords, separated by spaces.
    pub keywords: &'static str,
}

/// All languages that are coloured.
pub(super) const LANGUAGES: [Language; 11] = [
    Language {
        names: &["rust", "rs"],
        line: &["//"],
        block: Some(("/*", "*/")),
        quotes: &["\""],
        keywords: "as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod \
                   move mut pub ref return self Self static struct super trait true type unsafe use where while",
    },
    Language {
        names: &["python", "py", "python3"],
        line: &["#"],
        block: None,
        quotes: &["\"\"\"", "'''", "\"", "'"],
        keywords: "and as assert async await break class continue def del elif else except False finally for from global if \
                   import in is lambda None nonlocal not or pass raise return self True try while with yield",
    },
    Language {
        names: &["javascript", "js", "jsx", "typescript", "ts", "tsx", "mjs"],
        line: &["//"],
        block: Some(("/*", "*/")),
        quotes: &["\"", "'", "`"],
        keywords: "async await break case catch class const continue default delete do else enum export extends false \
                   finally for from function if implements import in instanceof interface let new null of return static \
                   super switch this throw true try type typeof undefined var void while yield",
    },
    Language {
        names: &["c", "cpp", "c++", "cc", "h", "hpp", "cuda", "objc"],
        line: &["//"],
        block: Some(("/*", "*/")),
        quotes: &["\"", "'"],
        keywords: "auto bool break case catch char class const constexpr continue default delete do double else enum extern \
                   false float for if inline int long namespace new nullptr operator private protected public return short \
                   signed sizeof static struct switch template this throw true try typedef typename union unsigned using \
                   virtual void volatile while",
    },
    Language {
        names: &["java", "kotlin", "kt", "csharp", "cs", "scala", "swift", "dart", "php"],
        line: &["//"],
        block: Some(("/*", "*/")),
        quotes: &["\"\"\"", "\"", "'"],
        keywords: "abstract async await boolean break byte case catch char class const continue data default do double else \
                   enum extends false final finally float for foreach fun func function guard if implements import in int \
                   interface internal is let long namespace new null object override package private protected public return \
                   short static string struct super switch this throw throws true try using val var void when where while",
    },
    Language {
        names: &["go", "golang"],
        line: &["//"],
        block: Some(("/*", "*/")),
        quotes: &["\"", "`", "'"],
        keywords: "break case chan const continue default defer else fallthrough false for func go goto if import interface \
                   map nil package range return select struct switch true type var",
    },
    Language {
        names: &["bash", "sh", "shell", "zsh", "fish", "console", "dockerfile", "makefile"],
        line: &["#"],
        block: None,
        quotes: &["\"", "'"],
        keywords: "alias break case cd continue do done echo elif else esac exit export fi for function if in local read \
                   return set shift source then until unset while sudo FROM RUN COPY CMD ENV WORKDIR ENTRYPOINT",
    },
    Language {
        names: &["json", "jsonc"],
        line: &["//"],
        block: None,
        quotes: &["\""],
        keywords: "true false null",
    },
    Language {
        names: &["toml", "yaml", "yml", "ini", "conf", "properties"],
        line: &["#", ";"],
        block: None,
        quotes: &["\"", "'"],
        keywords: "true false null yes no on off",
    },
    Language {
        names: &["sql", "sqlite", "postgresql", "mysql"],
        line: &["--"],
        block: Some(("/*", "*/")),
        quotes: &["'", "\""],
        keywords: "ADD ALL ALTER AND AS ASC BETWEEN BY CASE CREATE DELETE DESC DISTINCT DROP ELSE END EXISTS FROM GROUP \
                   HAVING IN INDEX INNER INSERT INTO IS JOIN KEY LEFT LIKE LIMIT NOT NULL ON OR ORDER OUTER PRIMARY RIGHT \
                   SELECT SET TABLE THEN UNION UPDATE VALUES VIEW WHEN WHERE WITH",
    },
    Language {
        names: &["lua", "ruby", "rb", "r", "julia", "elixir", "haskell", "hs"],
        line: &["--", "#"],
        block: None,
        quotes: &["\"", "'"],
        keywords: "and begin break class data def do else elseif elsif end false fn for function if import in let local \
                   module nil not or repeat require return self then true type unless until when where while yield",
    },
];
