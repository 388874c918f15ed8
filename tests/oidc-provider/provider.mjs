// A certified OpenID provider (npm's oidc-provider) for tests, on loopback and in clear.
//
//   node provider.mjs DIRECTORY [PORT] [OPTIONS]
//
// DIRECTORY holds its node_modules, PORT 0 is a free one. It prints `issuer URL` once it listens. OPTIONS is JSON:
//   access_token_s, id_token_s   lifetimes in seconds (3600)
//
// Clients, all with the secret `secret-of-NAME`:
//   web      authorization code with PKCE, refresh tokens, both logouts; redirects to /oauth2/callback of any port
//   gateway  may introspect
//   machine  client credentials; `resource=urn:api:jwt` gives a JWT (ES256, or &alg), `urn:api:opaque` an opaque token
//
// What a test wants of it, as POST /test/NAME?…:
//   login?as=NAME      who logs in from now on without being asked; empty: whoever fills in the form
//   rotate?keep=yes    a new key signs from now on; the old one stays published only if kept
//   fault?of=PATH&is=  `down` resets connections, `slow` never answers, `trickle` sends a space now and then and never ends,
//                      `held` waits until the fault is another one, `garbage` is no JSON, `forged` an ID token that is
//                      none, `error` is 500, `refused` is 400 with invalid_grant, `` is none;
//                      PATH is a prefix such as /token or /jwks
//   logout?sub=&sid=   sends a logout token to the client `web` (`to=URL`, once given, is where)
// and GET /test/counts says how often each path was asked for.

import * as crypto from 'node:crypto';
import * as http from 'node:http';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [directory, port = '0', json = '{}'] = process.argv.slice(2);
const options = { access_token_s: 3600, id_token_s: 3600, ...JSON.parse(json) };
const library = createRequire(resolve(directory, 'package.json')).resolve('oidc-provider');
const { default: Provider } = await import(pathToFileURL(library));

const SESSION_S = 24 * 3600;
const SECRET_OF = (name) => `secret-of-${name}`;
const state = { login: 'alice', faults: new Map(), held: [], counts: {}, logoutTo: undefined, keys: [] };

const newKeys = () => {
  const kid = crypto.randomUUID();
  const made = {
    RS256: crypto.generateKeyPairSync('rsa', { modulusLength: 2048 }),
    ES256: crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' }),
    EdDSA: crypto.generateKeyPairSync('ed25519'),
  };
  return Object.entries(made).map(([alg, pair]) => ({
    ...pair.privateKey.export({ format: 'jwk' }), alg, use: 'sig', kid: `${alg}-${kid}`,
  }));
};

// Addresses under which a test's gateway may be, whatever its port.
const isOurs = (path) => (uri) => {
  const url = URL.canParse(uri) ? new URL(uri) : undefined;
  return ['127.0.0.1', 'localhost'].includes(url?.hostname) && path.test(url.pathname) && !url.search && !url.hash;
};

function makeProvider(issuer) {
  const client = (name, metadata) => ({ client_id: name, client_secret: SECRET_OF(name), ...metadata });
  const provider = new Provider(issuer, {
    jwks: { keys: state.keys },
    clients: [
      client('web', {
        grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'],
        redirect_uris: ['https://localhost/oauth2/callback'],
        post_logout_redirect_uris: ['https://localhost/'],
        backchannel_logout_uri: 'https://localhost/oauth2/logout',
        backchannel_logout_session_required: true,
      }),
      client('gateway', { grant_types: ['client_credentials'], response_types: [], redirect_uris: [] }),
      client('machine', { grant_types: ['client_credentials'], response_types: [], redirect_uris: [] }),
    ],
    claims: { openid: ['sub', 'roles'], email: ['email', 'email_verified'], profile: ['name'] },
    conformIdTokenClaims: false,
    scopes: ['openid', 'email', 'profile', 'offline_access', 'read', 'write'],
    cookies: { keys: ['test'] },
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256', 'EdDSA'] },
    features: {
      devInteractions: { enabled: false },
      introspection: { enabled: true, allowedPolicy: (_, asking) => asking.clientId === 'gateway' },
      clientCredentials: { enabled: true },
      revocation: { enabled: true },
      backchannelLogout: { enabled: true },
      rpInitiatedLogout: {
        enabled: true,
        logoutSource(ctx, form) {
          ctx.body = page('Log out', `${form}<button form="op.logoutForm" name="logout" value="yes">Log out</button>`);
        },
        postLogoutSuccessSource(ctx) { ctx.body = page('Logged out', ''); },
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        useGrantedResource: () => true,
        getResourceServerInfo(_, resource) {
          const [, format, alg = 'ES256'] = /^urn:api:(opaque|jwt)(?::(\w+))?$/.exec(resource) ?? [];
          if (!format) throw new Error(`no such resource: ${resource}`);
          return {
            scope: 'read write', accessTokenFormat: format, audience: resource, accessTokenTTL: options.access_token_s,
            jwt: { sign: { alg } },
          };
        },
      },
    },
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
    issueRefreshToken: (_, asking) => asking.grantTypeAllowed('refresh_token'),
    // A second use of an old one is taken for theft, and ends all that came of it.
    rotateRefreshToken: true,
    loadExistingGrant,
    findAccount: (_, sub) => ({
      accountId: sub,
      claims: () => ({
        sub, roles: [sub === 'alice' ? 'clerk' : 'reader'], name: `${sub} of Example`,
        email: `${sub}@example.com`, email_verified: true,
      }),
    }),
    ttl: {
      AccessToken: options.access_token_s, ClientCredentials: options.access_token_s, IdToken: options.id_token_s,
      Grant: SESSION_S, Interaction: 3600, RefreshToken: SESSION_S, Session: SESSION_S,
    },
    // The library's own never asks an address of this host.
    fetch: (url, { dispatcher: _, ...rest }) => fetch(state.logoutTo ?? url, rest),
  });
  Object.assign(provider.Client.prototype, {
    redirectUriAllowed: isOurs(/^\/oauth2\/callback$/),
    postLogoutRedirectUriAllowed: isOurs(/^\//),
  });
  return provider;
}

// Whoever logs in without being asked agrees as well.
async function loadExistingGrant({ oidc }) {
  const { client, provider, session, result } = oidc;
  const id = result?.consent?.grantId ?? session.grantIdFor(client.clientId);
  if (id || !state.login) return id && provider.Grant.find(id);
  return grantOf(provider, client.clientId, session.accountId, oidc.params.scope);
}

async function grantOf(provider, clientId, accountId, scope) {
  const grant = new provider.Grant({ clientId, accountId });
  grant.addOIDCScope(scope);
  await grant.save();
  return grant;
}

const page = (title, body) => `<!doctype html><title>${title}</title><h1>${title}</h1>${body}`;

async function interact(provider, request, response) {
  const { prompt, params, session } = await provider.interactionDetails(request, response);
  const finish = (result) => provider.interactionFinished(request, response, result);
  if (prompt.name === 'login' && state.login) return finish({ login: { accountId: state.login } });
  if (request.method !== 'POST') {
    const fields = prompt.name === 'login' ? '<input name="login" required>' : '<p>May it know who you are?</p>';
    response.setHeader('content-type', 'text/html');
    return response.end(page(prompt.name, `<form method="post">${fields}<button>Continue</button></form>`));
  }
  if (prompt.name === 'login') return finish({ login: { accountId: new URLSearchParams(await bodyOf(request)).get('login') } });
  const grant = await grantOf(provider, params.client_id, session.accountId, params.scope);
  return finish({ consent: { grantId: grant.jti } });
}

async function bodyOf(request) {
  let body = '';
  for await (const chunk of request) body += chunk;
  return body;
}

let provider;
const orders = {
  login: ({ as }) => { state.login = as; },
  rotate: ({ keep }) => {
    state.keys = [...newKeys(), ...(keep ? state.keys : [])];
    provider = makeProvider(issuer);
  },
  fault: ({ of, is }) => {
    state.faults.set(of, is);
    state.held.splice(0).forEach((goOn) => goOn());
  },
  logout: async ({ sub, sid, to }) => {
    if (to) state.logoutTo = to;
    if (sub) await (await provider.Client.find('web')).backchannelLogout(sub, sid);
  },
};

const faultOf = (pathname) => [...state.faults].find(([prefix, is]) => is && pathname.startsWith(prefix))?.[1];

function trickle(response) {
  response.writeHead(200, { 'content-type': 'application/json' });
  const drops = setInterval(() => response.write(' '), 50);
  response.on('close', () => clearInterval(drops));
}

const server = http.createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, issuer);
  try {
    if (pathname === '/test/counts') return response.end(JSON.stringify(state.counts));
    if (pathname.startsWith('/test/')) {
      await orders[pathname.slice('/test/'.length)](Object.fromEntries(searchParams));
      return response.end();
    }
    state.counts[pathname] = (state.counts[pathname] ?? 0) + 1;
    while (faultOf(pathname) === 'held') await new Promise((goOn) => { state.held.push(goOn); });
    switch (faultOf(pathname)) {
      case 'down': return request.socket.resetAndDestroy();
      case 'slow': return undefined;
      case 'trickle': return trickle(response);
      case 'forged': return response.end('{"access_token":"a","token_type":"Bearer","id_token":"e30.e30.e30"}');
      case 'garbage': return response.end('<html>{"keys":');
      case 'error': return response.writeHead(500).end('{"error":"server_error"}');
      case 'refused': return response.writeHead(400).end('{"error":"invalid_grant"}');
      default:
    }
    if (pathname.startsWith('/interaction/')) return await interact(provider, request, response);
    return await provider.callback()(request, response);
  } catch (error) {
    console.error(error);
    return response.writeHead(500).end(String(error));
  }
});

await new Promise((listening) => { server.listen(Number(port), '127.0.0.1', listening); });
const issuer = `http://127.0.0.1:${server.address().port}`;
state.keys = newKeys();
provider = makeProvider(issuer);
console.log(`issuer ${issuer}`);
