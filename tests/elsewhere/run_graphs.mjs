// Run an artifact's graphs on an ONNX Runtime for JavaScript.
//
//     node run_graphs.mjs PACKAGE PROJECT ARTIFACTS RESULTS
//
// PACKAGE (onnxruntime-web or onnxruntime-node) is taken from PROJECT/node_modules. ARTIFACTS/CASE holds gradient.onnx,
// evaluate.onnx and the inputs of each step, steps/STEP.safetensors; the outputs go to RESULTS/CASE/STEP.safetensors.
// Prints one line of JSON: the runtime's version and the median time of each case's gradient.onnx.

import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { performance } from 'node:perf_hooks';

const [packageName, project, artifacts, results] = process.argv.slice(2);
const ort = createRequire(resolve(project, 'package.json'))(packageName);
const TYPES = { F32: ['float32', Float32Array], I64: ['int64', BigInt64Array] };
const REPEATS = 20;

function readTensors(path) {
  const file = readFileSync(path);
  const start = 8 + Number(file.readBigUInt64LE(0));
  const tensors = {};
  for (const [name, entry] of Object.entries(JSON.parse(file.toString('utf8', 8, start)))) {
    if (name === '__metadata__') continue;
    const [type, ArrayType] = TYPES[entry.dtype];
    const [from, to] = entry.data_offsets.map((offset) => start + offset);
    const bytes = new Uint8Array(file.subarray(from, to)); // a copy: a view must start at a multiple of its item
    tensors[name] = new ort.Tensor(type, new ArrayType(bytes.buffer), entry.shape);
  }
  return tensors;
}

function writeTensors(path, tensors) {
  const header = {};
  const parts = [];
  let offset = 0;
  for (const [name, tensor] of Object.entries(tensors)) {
    const { buffer, byteOffset, byteLength } = tensor.data;
    header[name] = { dtype: 'F32', shape: tensor.dims, data_offsets: [offset, offset + byteLength] };
    parts.push(Buffer.from(buffer, byteOffset, byteLength));
    offset += byteLength;
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, ...parts]));
}

function run(session, inputs) {
  return session.run(Object.fromEntries(session.inputNames.map((name) => [name, inputs[name]])));
}

async function medianTime(session, inputs) {
  const times = [];
  for (let i = 0; i < REPEATS; i += 1) {
    const start = performance.now();
    await run(session, inputs);
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[REPEATS / 2];
}

async function runCase(name) {
  const options = { intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 3 };
  if (packageName === 'onnxruntime-web') options.executionProviders = ['wasm'];
  const folder = join(artifacts, name);
  const gradient = await ort.InferenceSession.create(readFileSync(join(folder, 'gradient.onnx')), options);
  const evaluate = await ort.InferenceSession.create(readFileSync(join(folder, 'evaluate.onnx')), options);
  mkdirSync(join(results, name), { recursive: true });
  const steps = readdirSync(join(folder, 'steps')).sort();
  for (const step of steps) {
    const inputs = readTensors(join(folder, 'steps', step));
    writeTensors(join(results, name, step), { ...(await run(gradient, inputs)), ...(await run(evaluate, inputs)) });
  }
  return medianTime(gradient, readTensors(join(folder, 'steps', steps[0])));
}

if (packageName === 'onnxruntime-web') ort.env.wasm.numThreads = 1;
const times = {};
for (const name of readdirSync(artifacts).sort()) times[name] = await runCase(name);
const manifest = JSON.parse(readFileSync(join(project, 'node_modules', packageName, 'package.json'), 'utf8'));
const runtime = `${packageName} ${manifest.version}, Node ${process.version}`;
// Not the end by itself: some versions keep a worker.
process.stdout.write(`${JSON.stringify({ runtime, median_ms: times })}\n`, () => process.exit(0));
