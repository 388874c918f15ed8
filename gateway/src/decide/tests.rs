//! Whole decisions: bytes of a request head in, plan or refusal out.

use std::hash::RandomState;

use super::{testing::*, *};
use crate::config;

const SOURCE: &str = "203.0.113.7";
const START_NS: u64 = 1_000_000_000;

/// A gateway with its own buckets, at a time that tests move.
struct Gate {
    policy: Policy,
    limiter: Table,
    keys: KeyTables,
    now: Now,
    source: IpAddr,
}

impl Gate {
    fn new(config: &config::Config) -> Gate {
        Gate {
            policy: Policy::compile(config).unwrap(),
            limiter: Table::new(1024, RandomState::new()),
            keys: key_tables(&config.auths),
            now: Now { monotonic_ns: START_NS, unix_s: NOW_S },
            source: SOURCE.parse().unwrap(),
        }
    }

    /// `request`: request line without version, then header lines.
    fn decide(&self, request: &str) -> Result<Plan, Refused> {
        self.decide_with(request, &[]).map_err(|halt| match halt {
            Halt::Refused(refused) => refused,
            Halt::Ask(..) | Halt::Visit(..) => panic!("{halt:?}"),
        })
    }

    fn decide_with(&self, request: &str, answered: &[Answered]) -> Result<Plan, Halt> {
        let (line, headers) = request.split_once('\n').unwrap_or((request, ""));
        with_head(&format!("{line} HTTP/1.1\n{headers}"), |head| {
            let peer = Peer { source: self.source, ..peer(None) };
            let (_, mut memory, replays) = state();
            let mut state = State {
                limiter: &self.limiter,
                memory: &mut memory,
                replays: &replays,
                keys: &self.keys,
                answered,
            };
            decide(&self.policy, head, &peer, &mut state, self.now)
        })
    }

    #[track_caller]
    fn passes(&self, request: &str) -> Plan {
        self.decide(request).unwrap()
    }

    #[track_caller]
    fn refuses(&self, request: &str) -> Refusal {
        self.decide(request).unwrap_err().refusal
    }
}

fn limit(name: &str, per: LimitPer, burst: u64) -> config::Limit {
    config::Limit { name: name.into(), per, rate: config::Rate { per_s: 1.0, burst }, dry_run: false }
}

/// `/open` is public; `/orders` wants a key or a token and a permission; `/bodies` takes 10 bytes of JSON.
fn config() -> config::Config {
    let guarded = config::Route {
        auths: vec![0, 1],
        public: false,
        permission: config::Permission::All("orders:read".into()),
        action: Action::Upstream(0),
        ..route("orders", "/orders")
    };
    let bodies = config::Route {
        filter: Some(0),
        body_size_bytes: Some(10),
        request_timeout: Some(Duration::from_secs(5)),
        ..route("bodies", "/bodies")
    };
    let json = config::Filter { name: "json".into(), allow_types: vec!["application/json".into()] };
    config::Config {
        auths: vec![key_auth(), token_auth()],
        roles: vec![config::Role {
            name: "reader".into(),
            permissions: vec!["orders:*".into()],
            inherits: Vec::new(),
        }],
        consumers: vec![config::Consumer { name: "acme".into(), roles: vec![0], limits: Vec::new() }],
        filters: vec![json],
        routes: vec![route("open", "/open"), guarded, bodies],
        ..empty()
    }
}

fn with_key(request: &str) -> String {
    format!("{request}\nx-api-key: {}", *minted(1).text)
}

fn with_token(request: &str, claims: &str) -> String {
    format!("{request}\nauthorization: Bearer {}", token_with(claims))
}

fn claims(rest: &str) -> String {
    format!(r#"{{"sub":"bob","exp":{}{rest}}}"#, NOW_S + 60)
}

#[test]
fn a_public_route_asks_for_nothing() {
    let plan = Gate::new(&config()).passes("GET /open");
    assert_eq!((plan.route, plan.identity), (0, None));
    assert_eq!(plan.action, Act::Respond(Arc::new(respond(204))));
    assert!(plan.remove.is_empty());
}

#[test]
fn a_refusal_knows_its_route() {
    let mut config = config();
    config.routes[0].methods = vec!["GET".into()];
    let gate = Gate::new(&config);
    assert_eq!(gate.decide("GET /nowhere"), Err(Refused::of_no_route()));
    let allow = Arc::from("GET, HEAD");
    let refusal = Refusal::MethodNotAllowed { allow };
    let expected = Refused { route: Some(0), identity: None, refusal };
    assert_eq!(gate.decide("POST /open"), Err(expected));
    assert_eq!(gate.decide("GET /orders").unwrap_err().route, Some(1));
}

#[test]
fn a_key_makes_its_consumer_known_and_stays_at_the_gateway() {
    let plan = Gate::new(&config()).passes(&with_key("GET /orders"));
    let identity = plan.identity.unwrap();
    assert_eq!((&*identity.consumer, identity.auth, &identity.set[..]), ("acme", 0, &[][..]));
    assert_eq!(*plan.remove, ["authorization".into(), "dpop".into(), "x-api-key".into()]);
    assert_eq!(plan.action, Act::Upstream(0));
}

/// A credential that was not needed is one as well.
#[test]
fn a_route_keeps_every_credential_that_it_takes() {
    let gate = Gate::new(&config());
    let both = format!("{}\nauthorization: Basic YTpi", with_key("GET /orders"));
    assert_eq!(*gate.passes(&both).remove, ["authorization".into(), "dpop".into(), "x-api-key".into()]);
    let alone = Gate::new(&{
        let mut config = config();
        config.routes[1].auths = vec![0];
        config
    });
    assert_eq!(*alone.passes(&both).remove, ["x-api-key".into()], "another's field is none of our business");
}

#[test]
fn a_token_makes_its_consumer_known_and_sets_headers() {
    let mut config = config();
    let mut rules = token_rules();
    rules.claims.forward = vec![("x-user".into(), "sub".into())];
    config.auths[1].kind = config::AuthKind::Jwt(Box::new(rules));
    let gate = Gate::new(&config);
    let plan = gate.passes(&with_token("GET /orders", &claims(r#","roles":["gone","reader"]"#)));
    let identity = plan.identity.unwrap();
    assert_eq!((&*identity.consumer, identity.auth), ("bob", 1));
    assert_eq!(*plan.remove, ["authorization".into(), "dpop".into(), "x-api-key".into(), "x-user".into()]);
    assert_eq!(*identity.set, [("x-user".into(), "bob".to_owned())]);
    // Row 44: also where nobody has to be known.
    assert_eq!(*gate.passes("GET /open").remove, ["x-user".into()]);
}

#[test]
fn without_a_good_credential_every_method_is_named() {
    let gate = Gate::new(&config());
    let challenge_of = |request: &str| match gate.refuses(request) {
        Refusal::Unauthenticated { challenge, reason } => (challenge.to_string(), reason),
        other => panic!("{other:?}"),
    };
    let both = r#"ApiKey realm="keys", header="x-api-key", Bearer realm="staff""#;
    assert_eq!(challenge_of("GET /orders"), (both.to_owned(), AuthFailure::Absent));
    let (challenge, reason) = challenge_of("GET /orders\nauthorization: Bearer junk");
    assert_eq!(challenge, format!("{both}, error=\"invalid_token\""));
    assert!(matches!(reason, AuthFailure::Token(_)));
}

#[test]
fn a_permission_comes_from_the_credential_or_the_consumer() {
    let gate = Gate::new(&config());
    gate.passes(&with_key("GET /orders"));
    gate.passes(&with_token("GET /orders", &claims(r#","roles":"reader""#)));
    let refusal = gate.refuses(&with_token("GET /orders", &claims("")));
    assert!(matches!(refusal, Refusal::Forbidden(Forbidden::MissingPermission(_))));
    // A token of a configured consumer has that consumer's roles.
    gate.passes(&with_token("GET /orders", &claims("").replace("bob", "acme")));
}

/// Row 85.
#[test]
fn a_role_that_was_removed_is_refused_by_the_next_policy() {
    let mut config = config();
    Gate::new(&config).passes(&with_key("GET /orders"));
    config.consumers[0].roles.clear();
    assert!(matches!(Gate::new(&config).refuses(&with_key("GET /orders")), Refusal::Forbidden(_)));
}

#[test]
fn bodies_are_judged_by_what_the_head_says() {
    let gate = Gate::new(&config());
    let json = "content-type: Application/JSON; charset=utf-8";
    gate.passes("GET /bodies");
    gate.passes("POST /bodies\ncontent-length: 0");
    gate.passes(&format!("POST /bodies\ncontent-length: 10\n{json}"));
    gate.passes(&format!("POST /bodies\ntransfer-encoding: chunked\n{json}"));
    let too_large = Refusal::BodyTooLarge { max: 10 };
    assert_eq!(gate.refuses(&format!("POST /bodies\ncontent-length: 11\n{json}")), too_large);
    for types in [
        "",
        "\ncontent-type: text/plain",
        "\ncontent-type: application/jsonx",
        "\ncontent-type:",
        "\ncontent-type: ;",
        "\ncontent-type: application/json\ncontent-type: application/json",
    ] {
        let refusal = gate.refuses(&format!("POST /bodies\ncontent-length: 1{types}"));
        assert_eq!(refusal, Refusal::UnsupportedMediaType, "{types}");
    }
    let plan = gate.passes("GET /bodies");
    assert_eq!((plan.body_bytes_max, plan.request_timeout), (Some(10), Some(Duration::from_secs(5))));
}

#[test]
fn a_limit_per_source_counts_sources_also_before_they_are_known() {
    let mut config = config();
    config.limits = vec![limit("slow", LimitPer::Source, 2)];
    config.routes[1].limits = vec![0];
    let mut gate = Gate::new(&config);
    assert!(matches!(gate.refuses("GET /orders"), Refusal::Unauthenticated { .. }));
    assert!(matches!(gate.refuses("GET /orders"), Refusal::Unauthenticated { .. }));
    assert_eq!(gate.refuses(&with_key("GET /orders")), Refusal::Limited { limit: 0, retry_after_s: 1 });
    gate.source = "203.0.113.8".parse().unwrap();
    gate.passes(&with_key("GET /orders"));
    gate.source = SOURCE.parse().unwrap();
    gate.now.monotonic_ns += 1_000_000_000;
    gate.passes(&with_key("GET /orders"));
}

#[test]
fn a_limit_per_consumer_counts_only_who_got_in_and_wherever_they_come_from() {
    let mut config = config();
    config.limits = vec![limit("gold", LimitPer::Consumer, 1)];
    config.routes[1].limits = vec![0];
    let mut gate = Gate::new(&config);
    gate.refuses("GET /orders");
    gate.refuses(&with_token("GET /orders", &claims("").replace("bob", "eve")));
    gate.passes(&with_key("GET /orders"));
    gate.source = "203.0.113.8".parse().unwrap();
    assert_eq!(gate.refuses(&with_key("GET /orders")), Refusal::Limited { limit: 0, retry_after_s: 1 });
    gate.passes(&with_token("GET /orders", &claims(r#","roles":["reader"]"#)));
}

#[test]
fn limits_per_route_and_header_share_as_they_say() {
    let mut config = config();
    let tenant = LimitPer::Header("x-tenant".into());
    config.limits = vec![limit("all", LimitPer::Route, 3), limit("tenant", tenant, 1)];
    config.routes[0].limits = vec![1, 0];
    let gate = Gate::new(&config);
    gate.passes("GET /open\nx-tenant: a");
    assert_eq!(gate.refuses("GET /open\nX-Tenant: a"), Refusal::Limited { limit: 1, retry_after_s: 1 });
    gate.passes("GET /open\nx-tenant: b");
    gate.passes("GET /open");
    assert_eq!(gate.refuses("GET /open"), Refusal::Limited { limit: 1, retry_after_s: 1 }, "none: by source");
    assert_eq!(gate.refuses("GET /open\nx-tenant: c"), Refusal::Limited { limit: 0, retry_after_s: 1 });
}

#[test]
fn a_consumers_own_limits_come_on_top_and_none_counts_twice() {
    let mut config = config();
    config.limits = vec![limit("own", LimitPer::Consumer, 2), limit("both", LimitPer::Source, 3)];
    config.routes[1].limits = vec![1];
    config.consumers[0].limits = vec![0, 1];
    let gate = Gate::new(&config);
    gate.passes(&with_key("GET /orders"));
    gate.passes(&with_key("GET /orders"));
    assert_eq!(gate.refuses(&with_key("GET /orders")), Refusal::Limited { limit: 0, retry_after_s: 1 });
    assert_eq!(gate.refuses(&with_key("GET /orders")), Refusal::Limited { limit: 1, retry_after_s: 1 });
}

#[test]
fn a_dry_run_counts_and_tells_and_refuses_nobody() {
    let mut config = config();
    config.limits = vec![config::Limit { dry_run: true, ..limit("dry", LimitPer::Source, 1) }];
    config.routes[0].limits = vec![0];
    let gate = Gate::new(&config);
    assert_eq!(gate.passes("GET /open").limited_in_dry_run, None);
    assert_eq!(gate.passes("GET /open").limited_in_dry_run, Some(0));
}

#[test]
fn retry_after_is_rounded_up() {
    let mut config = config();
    let rate = config::Rate { per_s: 0.4, burst: 1 };
    config.limits = vec![config::Limit { rate, ..limit("slow", LimitPer::Source, 1) }];
    config.routes[0].limits = vec![0];
    let gate = Gate::new(&config);
    gate.passes("GET /open");
    assert_eq!(gate.refuses("GET /open"), Refusal::Limited { limit: 0, retry_after_s: 3 });
}

#[track_caller]
fn check_error(change: impl FnOnce(&mut config::Config), expected: &str) {
    let mut config = config();
    change(&mut config);
    let errors: Vec<String> =
        Policy::compile(&config).err().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(errors, [expected]);
}

#[test]
fn a_configuration_that_makes_no_policy_is_refused() {
    check_error(
        |c| c.routes[0].public = false,
        "routes.open: nobody could get in: it wants auth or public = true",
    );
    check_error(|c| c.routes[1].public = true, "routes.orders: public and auth contradict each other");
    check_error(
        |c| c.routes[0].permission = config::Permission::All("x".into()),
        "routes.open: a permission needs auth: on a public route nobody is known",
    );
    check_error(|c| c.limits = vec![limit("l", LimitPer::Route, 1); 65_535], "limits: more than 65534");
    check_error(|c| c.routes[0].path = "open".into(), "routes.open.path: must start with a slash");
    check_error(
        |c| {
            let rules = config::Jwt { algorithms: vec!["none".into()], ..token_rules() };
            c.auths[1].kind = config::AuthKind::Jwt(Box::new(rules));
        },
        "auth.staff: algorithms: one is unknown or not supported",
    );
}

#[test]
fn a_handshake_is_looked_at_only_where_there_are_websockets() {
    let sockets = |origins: &[&str]| config::Route {
        websocket: Some(config::WebSocket {
            origins: origins.iter().map(|origin| Arc::from(*origin)).collect(),
            idle_timeout: Duration::from_secs(7),
        }),
        ..config().routes[1].clone()
    };
    let ask = |key: &str| {
        with_key(&format!(
            "GET /orders\nUpgrade: websocket\nConnection: Upgrade\nOrigin: https://evil.example\n\
             Sec-WebSocket-Version: 13\nSec-WebSocket-Key: {key}"
        ))
    };
    let (good, bad) = (ask("dGhlIHNhbXBsZSBub25jZQ=="), ask("x"));
    let gate = |route: config::Route| {
        let mut config = config();
        config.routes[1] = route;
        Gate::new(&config)
    };
    assert_eq!(gate(config().routes[1].clone()).passes(&bad).websocket, None);
    let open = gate(sockets(&[]));
    let websocket = open.passes(&good).websocket.expect("it asks for one");
    assert_eq!(websocket.idle_timeout, Duration::from_secs(7));
    assert_eq!(open.passes(&with_key("GET /orders")).websocket, None, "an ordinary request");
    assert_eq!(open.refuses(&bad), Refusal::BadHandshake(HandshakeError::Key));
    assert_eq!(gate(sockets(&["https://shop.example"])).refuses(&good), Refusal::ForeignOrigin);
    let stranger = good.replace("x-api-key", "x-other");
    assert!(matches!(open.refuses(&stranger), Refusal::Unauthenticated { .. }), "who asks comes first");
}

/// Whether two routes have one set of rules between them.
fn share_rules(change: impl FnOnce(&mut config::Route)) -> bool {
    let mut config = config();
    let mut first = config.routes[1].clone();
    first.action = Action::Upstream(0);
    let mut second = config::Route { name: "second".into(), path: "/second".into(), ..first.clone() };
    change(&mut second);
    config.routes = vec![first, second];
    let policy = Policy::compile(&config).unwrap();
    std::ptr::eq(policy.route(0).unwrap(), policy.route(1).unwrap())
}

#[test]
fn routes_share_rules_only_where_none_differs() {
    assert!(share_rules(|_| {}));
    assert!(share_rules(|route| (route.hosts, route.methods) = (vec!["h".into()], vec!["PUT".into()])));
    assert!(!share_rules(|route| route.action = Action::Upstream(1)));
    assert!(!share_rules(
        |route| (route.auths, route.public, route.permission) = (vec![], true, config::Permission::None)
    ));
    assert!(!share_rules(|route| route.auths = vec![1]));
    assert!(!share_rules(|route| route.permission = config::Permission::All("other".into())));
    assert!(!share_rules(|route| route.limits = vec![0]));
    assert!(!share_rules(|route| route.filter = Some(0)));
    assert!(!share_rules(|route| route.request_timeout = Some(Duration::from_secs(7))));
    assert!(!share_rules(|route| route.body_size_bytes = Some(7)));
    assert!(!share_rules(|route| route.compress = vec![config::Coding::Gzip]));
    assert!(!share_rules(|route| {
        route.websocket = Some(config::WebSocket { origins: vec![], idle_timeout: Duration::from_secs(1) });
    }));
    assert!(!share_rules(|route| route.rewrite = Some(Arc::default())));
    assert!(!share_rules(|route| route.action = Action::Respond(Arc::new(respond(204)))));
}

/// The limits that need no identity are not taken from twice, and nobody passes for want of an answer.
#[test]
fn a_request_that_waits_for_an_answer_is_one_request() {
    let mut config = config();
    config.auths.push(basic_auth());
    config.routes[1].auths = vec![2];
    config.routes[1].limits = vec![0];
    config.limits = vec![limit("one", LimitPer::Source, 1)];
    config.consumers[0].name = "bob".into();
    let gate = Gate::new(&config);
    let request = "GET /orders\nauthorization: Basic Ym9iOmI=";
    let asked = gate.decide_with(request, &[]);
    assert!(matches!(asked, Err(Halt::Ask(1, Question { auth: 2, .. }))), "{asked:?}");
    let plan = gate.decide_with(request, &[answered(2, Ok("bob"))]).unwrap();
    assert_eq!(&*plan.identity.unwrap().consumer, "bob");
    let refusal = |failure| match gate.decide_with(request, &[answered(2, Err(failure))]) {
        Err(Halt::Refused(refused)) => refused.refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(AuthFailure::Unavailable), Refusal::AuthUnavailable);
    assert!(matches!(refusal(AuthFailure::Password), Refusal::Unauthenticated { .. }));
    assert!(matches!(gate.refuses(request), Refusal::Limited { .. }));
}

#[test]
fn a_key_that_is_taken_back_is_not_remembered() {
    let gate = Gate::new(&config());
    let (_, mut memory, replays) = state();
    let mut asks = || {
        with_head(&with_key("GET /orders HTTP/1.1"), |head| {
            let peer = Peer { source: gate.source, ..peer(None) };
            let mut state = State {
                limiter: &gate.limiter,
                memory: &mut memory,
                replays: &replays,
                keys: &gate.keys,
                answered: &[],
            };
            decide(&gate.policy, head, &peer, &mut state, gate.now)
                .map(|plan| plan.identity.unwrap().consumer.clone())
        })
    };
    let table = gate.keys.of(0).unwrap();
    assert_eq!(asks(), Ok("acme".into()));
    assert_eq!(asks(), Ok("acme".into()), "remembered");
    table.apply(vec![key_table::Change::Put(stored(&minted(1), "zeta"))]);
    let Err(Halt::Refused(refused)) = asks() else { panic!("zeta has no role") };
    assert!(matches!(refused.refusal, Refusal::Forbidden { .. }));
    table.apply(vec![key_table::Change::Remove(minted(1).id.as_bytes().try_into().unwrap())]);
    let Err(Halt::Refused(refused)) = asks() else { panic!("it was taken back") };
    assert!(matches!(refused.refusal, Refusal::Unauthenticated { .. }));
    let uses = table.take_uses();
    assert_eq!(uses, [], "the key is no longer there to tell");
}

#[test]
fn every_use_of_a_key_is_counted_remembered_or_not() {
    let gate = Gate::new(&config());
    for _ in 0..3 {
        gate.passes(&with_key("GET /orders"));
    }
    gate.refuses("GET /orders\nx-api-key: junk");
    let uses = gate.keys.of(0).unwrap().take_uses();
    let expected = key_table::Used { id: minted(1).id, last_s: NOW_S, source: gate.source, count: 3 };
    assert_eq!(uses, [expected]);
}

#[test]
fn row_83_a_key_in_the_query_stays_here() {
    let mut config = config();
    config.auths[0] = key_auth_in(config::Carrier::Query("api_key".into()));
    let gate = Gate::new(&config);
    let key = minted(1).text;
    let plan = gate.passes(&format!("GET /orders?a=1&api_key={}&b=2", *key));
    assert_eq!(plan.identity.unwrap().consumer, "acme".into());
    assert_eq!(&*plan.remove_query, [Arc::from("api_key")]);
    assert!(!plan.remove.contains(&"x-api-key".into()));
    for request in [
        format!("GET /orders?api_key={0}&api_key={0}", *key),
        format!("GET /orders?API_KEY={}", *key),
        "GET /orders?api_key".to_owned(),
        format!("GET /orders\nx-api-key: {}", *key),
        format!("GET /orders\napi_key: {}", *key),
    ] {
        let Refusal::Unauthenticated { challenge, .. } = gate.refuses(&request) else { panic!("{request}") };
        assert!(challenge.starts_with("ApiKey realm=\"keys\", query=\"api_key\""), "{challenge}");
    }
    assert_eq!(gate.passes("GET /open?api_key=x").remove_query.len(), 0, "it means nothing there");
}
