//! How text enters a page: as ASCII, so that whatever a tenant calls itself ends no element, opens no other, does not turn the page's
//! source around, and comes through any encoding of the database. Pure.

use askama::filters::Escaper;
use std::fmt::{Result, Write};

/// Escapes for elements' contents and quoted attributes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ascii;

impl Escaper for Ascii {
    fn write_escaped_str<W: Write>(&self, mut dest: W, text: &str) -> Result {
        text.chars().try_for_each(|c| self.write_escaped_char(&mut dest, c))
    }

    fn write_escaped_char<W: Write>(&self, mut dest: W, c: char) -> Result {
        match c {
            '<' | '>' | '&' | '"' | '\'' | '`' => write!(dest, "&#{};", u32::from(c)),
            ' '..='~' | '\n' | '\t' => dest.write_char(c),
            // HTML has no other control characters, and no noncharacters; a reference to one is an error.
            c if c.is_control() || matches!(u32::from(c), 0xFDD0..=0xFDEF) || u32::from(c) & 0xFFFE == 0xFFFE => {
                dest.write_str("&#xFFFD;")
            }
            c => write!(dest, "&#x{:X};", u32::from(c)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_plain_is_a_reference() {
        let escaped = |text: &str| {
            let mut page = String::new();
            Ascii.write_escaped_str(&mut page, text).unwrap();
            page
        };
        assert_eq!(escaped("Acme 100 %"), "Acme 100 %");
        assert_eq!(escaped("<script>\"'&`"), "&#60;script&#62;&#34;&#39;&#38;&#96;");
        assert_eq!(escaped("\u{2028}\u{202E}\u{1F600}é"), "&#x2028;&#x202E;&#x1F600;&#xE9;");
        assert_eq!(escaped("\u{1}\r\u{85}\u{FDD0}\u{FFFF}\u{10FFFE}"), "&#xFFFD;".repeat(6));
    }
}
