// Does one kind of work in one way, as often as it is told: node.mjs KIND WAY URL FOLDER
//
// Each line of its standard input is an amount; each is answered with a line of JSON, either its figures or
// {"failed": why}. Connections are kept from one amount to the next. It ends when its standard input does.

import fs from "node:fs";
import http from "node:http";
import https from "node:https";
import path from "node:path";
import readline from "node:readline";
import { pipeline } from "node:stream/promises";

const [kind, way, site, folder] = process.argv.slice(2);
const KIB = 1024;
const SMALL_SIZE = 100, TASKS = 16, READ_SIZE = 256 * KIB, STILL = 50;
const WRITE_SIZES = { large: 64 * KIB, tiny: 100 };

const library = site.startsWith("https:") ? https : http;
const agent = new library.Agent({ keepAlive: true });

function expect(found, wanted) {
  if (found !== wanted) throw new Error(`expected ${wanted}, found ${found}`);
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// ---- one request ----

function send(method, where, headers = {}) {
  const request = library.request(site + where, { method, headers, agent });
  const response = new Promise((resolve, reject) => request.on("response", resolve).on("error", reject));
  response.catch(() => {}); // it may fail while nobody waits for it yet
  return { request, response };
}

async function readLength(response) {
  expect(response.statusCode ?? response.status, 200);
  let received = 0;
  for await (const chunk of response.body ?? response) received += chunk.length;
  return received;
}

async function readJson(response) {
  expect(response.statusCode, 200);
  let text = "";
  for await (const chunk of response.setEncoding("utf8")) text += chunk;
  return JSON.parse(text);
}

async function get(where) {
  if (way === "fetch") return readLength(await fetch(site + where));
  const { request, response } = send("GET", where);
  request.end();
  return readLength(await response);
}

async function getSmall(where = "/small") {
  expect(await get(where), SMALL_SIZE);
}

// ---- the kinds of work ----

async function getOneByOne(count) {
  for (let done = 0; done < count; done++) await getSmall();
}

async function getInTasks(count) {
  const share = Math.max(1, Math.floor(count / TASKS));
  await Promise.all(Array.from({ length: TASKS }, () => getOneByOne(share)));
}

async function getAtOnce(count) {
  await Promise.all(Array.from({ length: count }, () => getSmall("/wait/200")));
}

// Pushed, as a program pushes whose writer says when to stop: write() and "drain".
async function upload(total, size) {
  const { request, response } = send("POST", "/upload", { "Transfer-Encoding": "chunked" });
  const block = Buffer.alloc(size);
  for (let left = total; left > 0; left -= size) {
    const room = request.write(left < size ? block.subarray(0, left) : block);
    if (!room) await new Promise((resolve) => request.once("drain", resolve));
  }
  request.end();
  expect((await readJson(await response)).bytes, total);
}

async function uploadFile(total) {
  const file = path.join(folder, "bytes", String(total));
  if (way === "fetch") {
    const response = await fetch(`${site}/upload`, { method: "POST", body: await fs.openAsBlob(file) });
    return expect((await response.json()).bytes, total);
  }
  const { request, response } = send("POST", "/upload", { "Content-Length": total });
  await pipeline(fs.createReadStream(file, { highWaterMark: READ_SIZE }), request);
  expect((await readJson(await response)).bytes, total);
}

async function download(total) {
  expect(await get(`/bytes/${total}`), total);
}

// ---- aborting ----

// Milliseconds from the abort until what waits for the promise has been told.
async function timeAbort(waiting, abort, settled) {
  let ended = 0, outcome;
  const done = waiting.then(
    (value) => { ended = performance.now(); outcome = value; },
    (error) => { ended = performance.now(); outcome = error; },
  );
  await settled();
  if (ended) throw new Error(`the call did not block: ${outcome}`);
  const start = performance.now();
  abort();
  await done;
  return ended - start;
}

async function abortWaiting() {
  const controller = new AbortController();
  const waiting = fetch(`${site}/wait/600000`, { signal: controller.signal });
  return timeAbort(waiting, () => controller.abort(), () => pause(STILL));
}

async function abortReading() {
  const controller = new AbortController();
  const response = await fetch(`${site}/stall/600000`, { signal: controller.signal });
  return timeAbort(response.arrayBuffer(), () => controller.abort(), () => pause(STILL));
}

async function abortWriting() {
  const { request } = send("POST", "/wait/1000", { "Transfer-Encoding": "chunked" });
  const block = Buffer.alloc(64 * KIB);
  let written = 0;
  const write = async () => {
    for (;;) {
      written++;
      if (!request.write(block))
        await new Promise((resolve, reject) => request.once("drain", resolve).once("close", reject));
    }
  };
  const settled = async () => {
    for (let seen = -1; seen !== written; await pause(STILL)) seen = written;
  };
  return timeAbort(write(), () => request.destroy(), settled);
}

async function abortEach(count, abort) {
  const milliseconds = [];
  for (let done = 0; done < count; done++) milliseconds.push(await abort());
  return { milliseconds };
}

const WORKS = {
  get: getOneByOne,
  threads: getInTasks,
  once: getAtOnce,
  large: (total) => upload(total, WRITE_SIZES.large),
  tiny: (total) => upload(total, WRITE_SIZES.tiny),
  file: uploadFile,
  download,
  "abort-waiting": (count) => abortEach(count, abortWaiting),
  "abort-reading": (count) => abortEach(count, abortReading),
  "abort-writing": (count) => abortEach(count, abortWriting),
};

// ---- measuring ----

// Linux tells it in a file; resourceUsage() can give the peak of the process that started this one.
function peakMemory() {
  const status = "/proc/self/status";
  if (!fs.existsSync(status)) return process.resourceUsage().maxRSS * KIB;
  return Number(/^VmHWM:\s+(\d+)/m.exec(fs.readFileSync(status, "utf8"))[1]) * KIB;
}

async function measure(amount) {
  const start = performance.now(), used = process.cpuUsage();
  const figures = await WORKS[kind](amount);
  const wall = (performance.now() - start) / 1000, cpu = process.cpuUsage(used);
  const memory = peakMemory() - memoryBefore;
  return { wall, cpu: (cpu.user + cpu.system) / 1e6, memory, ...figures };
}

const memoryBefore = peakMemory();
for await (const line of readline.createInterface({ input: process.stdin })) {
  const figures = await measure(Number(line)).catch((error) => ({ failed: String(error) }));
  console.log(JSON.stringify(figures));
}
process.exit(0);
