//! `/`: one self-contained page that fetches `/stats` and shows it.

/// The page. It holds no numbers, so that it may be served without a token, and loads nothing from elsewhere.
pub(super) const PAGE: &str = include_str!("page.html");

/// What the page may do: run its own script and ask this server.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                                 connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
