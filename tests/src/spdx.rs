//! SPDX licence expressions: may we use a package under licences that we allow?
//!
//! ```text
//! either  = both { ("OR" | "/") both }
//! both    = one { "AND" one }
//! one     = "(" either ")" | licence [ "WITH" exception ]
//! ```
//! `/` is how crates wrote OR before SPDX expressions.

/// Whether the expression can be satisfied with allowed licences alone. A licence with an exception is looked up as
/// `LICENCE WITH EXCEPTION`.
///
/// # Errors
/// When the text is no licence expression.
pub fn satisfiable(expression: &str, allowed: &[&str]) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, allowed };
    let answer = parser.either().and_then(|answer| match parser.words {
        [] => Ok(answer),
        [word, ..] => Err(format!("unexpected `{word}`")),
    });
    answer.map_err(|problem| format!("licence expression `{expression}`: {problem}"))
}

struct Parser<'a> {
    words: &'a [&'a str],
    allowed: &'a [&'a str],
}

impl<'a> Parser<'a> {
    fn either(&mut self) -> Result<bool, String> {
        let mut answer = self.both()?;
        while self.take("OR") {
            answer |= self.both()?;
        }
        Ok(answer)
    }

    fn both(&mut self) -> Result<bool, String> {
        let mut answer = self.one()?;
        while self.take("AND") {
            answer &= self.one()?;
        }
        Ok(answer)
    }

    fn one(&mut self) -> Result<bool, String> {
        if self.take("(") {
            let answer = self.either()?;
            return if self.take(")") { Ok(answer) } else { Err("`)` is missing".to_owned()) };
        }
        let licence = self.name()?;
        if self.take("WITH") {
            let whole = format!("{licence} WITH {}", self.name()?);
            return Ok(self.allowed.contains(&whole.as_str()));
        }
        Ok(self.allowed.contains(&licence))
    }

    fn name(&mut self) -> Result<&'a str, String> {
        match self.words {
            [] => Err("a licence is missing".to_owned()),
            [word @ ("OR" | "AND" | "WITH" | "(" | ")"), ..] => Err(format!("unexpected `{word}`")),
            [name, rest @ ..] => {
                self.words = rest;
                Ok(name)
            }
        }
    }

    fn take(&mut self, word: &str) -> bool {
        match self.words {
            [first, rest @ ..] if *first == word => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::satisfiable;

    const ALLOWED: [&str; 3] = ["MIT", "Apache-2.0", "Unicode-3.0"];

    #[test]
    fn what_can_be_satisfied() {
        for expression in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0/MIT",
            "Apache-2.0 / GPL-3.0",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "GPL-3.0 AND GPL-2.0 OR MIT",
            "Apache-2.0 WITH LLVM-exception OR MIT",
        ] {
            assert_eq!(satisfiable(expression, &ALLOWED), Ok(true), "{expression}");
        }
    }

    #[test]
    fn what_cannot() {
        for expression in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "GPL-3.0 AND (MIT OR Apache-2.0)",
            "Apache-2.0 WITH LLVM-exception",
            "(MIT OR GPL-3.0) AND GPL-3.0",
        ] {
            assert_eq!(satisfiable(expression, &ALLOWED), Ok(false), "{expression}");
        }
    }

    #[test]
    fn what_is_no_expression() {
        for text in ["", "MIT OR", "(MIT", "MIT)", "MIT Apache-2.0", "WITH MIT"] {
            assert!(satisfiable(text, &ALLOWED).is_err(), "{text}");
        }
    }
}
