// Renders DiceBear pixel-art faces at their native 16x16 to raw RGB and their attributes to CSV.
// Needs the npm packages @dicebear/core 9.4.3, @dicebear/collection 9.4.3 and @resvg/resvg-js.
//   node render.mjs OUT_FOLDER
import { createAvatar } from '@dicebear/core';
import { pixelArt } from '@dicebear/collection';
import { Resvg } from '@resvg/resvg-js';
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

const COUNT = 10000;
const pixels = [], rows = [], seen = new Set();
let attempts = 0;
for (; pixels.length < COUNT; attempts++) {
  const seed = `heldout-${String(attempts).padStart(5, '0')}`;
  const avatar = createAvatar(pixelArt, { seed, size: 16, backgroundColor: ['ffffff'] });
  const rgba = new Resvg(avatar.toString(), { fitTo: { mode: 'width', value: 16 }, shapeRendering: 1 }).render();
  if (rgba.width !== 16 || rgba.height !== 16) throw new Error(`${seed} is ${rgba.width}x${rgba.height}`);
  const rgb = Buffer.alloc(16 * 16 * 3);
  for (let i = 0; i < 256; i++) {
    if (rgba.pixels[4 * i + 3] !== 255) throw new Error(`${seed} is not opaque`);
    rgba.pixels.copy(rgb, 3 * i, 4 * i, 4 * i + 3);
  }
  const key = createHash('sha256').update(rgb).digest('hex');
  if (seen.has(key)) continue; // the same face from another seed
  seen.add(key);
  pixels.push(rgb);
  rows.push({ seed, ...avatar.toJson().extra });
}
const columns = ['seed', ...new Set(rows.flatMap(Object.keys).filter((k) => k !== 'seed'))].sort(
  (a, b) => (b === 'seed') - (a === 'seed') || (a < b ? -1 : 1));
const cell = (v) => (v === undefined || v === null ? '' : Array.isArray(v) ? v.join(' ') : String(v));
const csv = [columns.join(','), ...rows.map((r) => columns.map((c) => cell(r[c])).join(','))].join('\n') + '\n';
writeFileSync(join(process.argv[2], 'images.rgb'), Buffer.concat(pixels));
writeFileSync(join(process.argv[2], 'attributes.csv'), csv);
console.log(`${pixels.length} distinct faces from ${attempts} seeds`);
