//! Licence expressions: `MIT OR (Apache-2.0 WITH LLVM-exception AND Unicode-3.0)`.
//!
//! `AND` binds tighter than `OR`, and the old `/` of crates.io means `OR`.

use std::collections::BTreeSet;

/// Whether some choice that `expression` leaves open needs only licences in `allowed`.
pub(crate) fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> Result<bool, String> {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut parser = Parser {
        tokens: spaced.split_whitespace().collect(),
        at: 0,
        allowed,
    };
    let answer = parser.either()?;
    match parser.peek() {
        None => Ok(answer),
        Some(token) => Err(format!("`{token}` is one word too many")),
    }
}

struct Parser<'a> {
    tokens: Vec<&'a str>,
    at: usize,
    allowed: &'a BTreeSet<String>,
}

impl<'a> Parser<'a> {
    fn either(&mut self) -> Result<bool, String> {
        let mut answer = self.both()?;
        while self.take("OR") {
            // Both sides are read, whatever the first one says: reading moves the position.
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
            return if self.take(")") {
                Ok(answer)
            } else {
                Err("a bracket is not closed".to_owned())
            };
        }
        let licence = self.word()?;
        let name = if self.take("WITH") {
            format!("{licence} WITH {}", self.word()?)
        } else {
            licence.to_owned()
        };
        Ok(self.allowed.contains(&name))
    }

    fn word(&mut self) -> Result<&'a str, String> {
        let word = self
            .peek()
            .filter(|word| !matches!(*word, "OR" | "AND" | "WITH" | "(" | ")"))
            .ok_or("a licence is missing")?;
        self.at += 1;
        Ok(word)
    }

    fn take(&mut self, token: &str) -> bool {
        let here = self.peek() == Some(token);
        if here {
            self.at += 1;
        }
        here
    }

    fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(expression: &str) -> Result<bool, String> {
        let allowed = ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"];
        is_allowed(expression, &allowed.map(str::to_owned).into())
    }

    #[test]
    fn one_allowed_choice_is_enough() {
        assert_eq!(allowed("MIT"), Ok(true));
        assert_eq!(allowed("GPL-3.0 OR MIT"), Ok(true));
        assert_eq!(allowed("Apache-2.0/MIT"), Ok(true));
        assert_eq!(allowed("Apache-2.0"), Ok(false));
    }

    #[test]
    fn everything_that_is_joined_must_be_allowed() {
        assert_eq!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"), Ok(true));
        assert_eq!(allowed("(MIT OR Apache-2.0) AND GPL-3.0"), Ok(false));
        assert_eq!(allowed("MIT OR Apache-2.0 AND GPL-3.0"), Ok(true));
    }

    #[test]
    fn an_exception_is_part_of_the_name() {
        assert_eq!(allowed("Apache-2.0 WITH LLVM-exception"), Ok(true));
        assert_eq!(allowed("MIT WITH LLVM-exception"), Ok(false));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for text in ["", "MIT OR", "(MIT", "MIT MIT", "AND MIT", "MIT)"] {
            assert!(allowed(text).is_err(), "{text}");
        }
    }
}
