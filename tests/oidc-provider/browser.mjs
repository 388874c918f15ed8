// A real browser, told what to do line by line: Debian's chromium over its debugging pipe.
//
//   node browser.mjs CHROMIUM PROFILE
//
// A line of JSON on standard input does one thing, and one on standard output says where the page is then:
//   {"visit": URL}              goes there
//   {"fill": {NAME: TEXT}}      fills in fields of the page's form and presses its button
//   {"fetch": URL}              what a script of the page gets: {"status", "body"}
// The answer is {"url", "title", "text", "cookies"}; certificates of a test's own authority are believed.

import { spawn } from 'node:child_process';
import * as readline from 'node:readline';

const [chromium, profile] = process.argv.slice(2);
const FLAGS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--no-proxy-server',
  '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-extensions',
  '--ignore-certificate-errors', '--remote-debugging-pipe', `--user-data-dir=${profile}`,
];
const child = spawn(chromium, FLAGS, { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });
child.on('exit', () => process.exit(1));
const [, , , out, into] = child.stdio;

let count = 0;
let heard = '';
const waiting = new Map();
const events = [];
into.setEncoding('utf8').on('data', (data) => {
  const messages = (heard + data).split('\0');
  heard = messages.pop();
  for (const message of messages.map((text) => JSON.parse(text))) {
    if (message.id) waiting.get(message.id)?.(message);
    else for (const event of events) event(message);
  }
});

function send(method, params = {}, sessionId = undefined) {
  const id = ++count;
  out.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
  return new Promise((done, fail) => {
    waiting.set(id, ({ error, result }) => (error ? fail(new Error(`${method}: ${error.message}`)) : done(result)));
  });
}

const { targetInfos } = await send('Target.getTargets');
const { targetId } = targetInfos.find(({ type }) => type === 'page') ?? await send('Target.createTarget', { url: 'about:blank' });
const { sessionId } = await send('Target.attachToTarget', { targetId, flatten: true });
const ask = (method, params) => send(method, params, sessionId);
await ask('Page.enable');

// The load of the page that `begin` leads to; of the empty one before it there may still be news.
async function loaded(begin) {
  const over = new Promise((done) => {
    let isThere = false;
    const event = ({ method, params }) => {
      if (method === 'Page.frameNavigated') isThere ||= !params.frame.parentId && params.frame.url !== 'about:blank';
      if (method !== 'Page.loadEventFired' || !isThere) return;
      events.splice(events.indexOf(event), 1);
      done();
    };
    events.push(event);
  });
  await begin();
  await over;
}

async function evaluate(expression) {
  const { result, exceptionDetails } = await ask('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
}

async function perform(order) {
  if (order.fetch) {
    return evaluate(`fetch(${JSON.stringify(order.fetch)}).then(async (r) => ({ status: r.status, body: await r.text() }))`);
  }
  if (order.visit) await loaded(() => ask('Page.navigate', { url: order.visit }));
  if (order.fill) {
    await loaded(() => evaluate(`for (const [name, text] of Object.entries(${JSON.stringify(order.fill)})) {
      document.forms[0].elements[name].value = text;
    } document.querySelector('button').click();`));
  }
  const { cookies } = await ask('Network.getAllCookies');
  return { ...await evaluate('({ url: location.href, title: document.title, text: document.body?.innerText ?? "" })'), cookies };
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  try {
    console.log(JSON.stringify(await perform(JSON.parse(line))));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
child.kill();
process.exit(0);
