//! Configurations: whatever the text, mistakes or a configuration that prints as one that means the same.

use snigate::config::Config;

/// Checks a text.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Files that it names are read: devices that never end, or that ask someone, are no finding.
    if ["/dev", "/proc", "/sys"].iter().any(|folder| text.contains(folder)) {
        return;
    }
    match Config::parse(text) {
        Ok(config) => {
            let printed = config.to_string();
            let again = Config::parse(&printed).unwrap_or_else(|mistakes| panic!("{mistakes}\n{printed}"));
            assert_eq!(again.to_string(), printed);
        }
        Err(mistakes) => assert!(!mistakes.to_string().is_empty()),
    }
}
