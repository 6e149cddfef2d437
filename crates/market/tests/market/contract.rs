//! The contract as it is written down.

use crate::rig::Rig;

#[test]
fn the_committed_openapi_document_is_the_servers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == market::openapi(),
        "docs/openapi.json is not what the server says: run `cargo xtask openapi`, look at the difference, and commit it"
    );
}

#[test]
fn every_problem_code_is_documented() {
    let text = include_str!("../../../../docs/problems.md");
    let documented: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let codes: Vec<&str> = api::code::ALL.iter().map(|(code, ..)| *code).collect();
    assert_eq!(documented, codes);
    for (code, status, title) in api::code::ALL {
        assert!(text.contains(&format!("| `{code}` | {status} | {title} |")), "{code}");
    }
}

#[tokio::test]
async fn the_market_tells_what_it_is() {
    let rig = Rig::start().await;
    let market: api::MarketInfo = rig.get("/v1/market").await;
    assert_eq!(market.market, rig.market.key().public());
    assert_eq!(market.provider_bps + market.treasury_bps + market.burn_bps, 10_000);
    let health: api::Health = rig.get("/v1/health").await;
    assert_eq!((health.status.as_str(), health.seq), ("ok", 1), "founded, and its challenges anchored");
    let metrics = rig.http.get(rig.url("/metrics")).send().await.expect("an answer");
    assert!(metrics.text().await.expect("text").contains("plexus_journal_events_total"));
    for path in ["/", "/contribute"] {
        let page = rig.http.get(rig.url(path)).send().await.expect("an answer");
        assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8", "{path}");
        assert_eq!(page.headers()["content-security-policy"], "frame-ancestors 'none'", "{path}");
    }
}
