import type { ClusterPlan, NodePlan } from "../plan/plan";

/** What is drawn of a cluster. */
export interface DrawnCluster {
  /** Its name in the program. */
  readonly title: string;
  readonly plan: ClusterPlan;
}

const BLUE = "#2b6cb0";
const GREEN = "#2f855a";
const GREY = "#4a5568";
const MARGIN = 40;
const FRONTEND = { width: 300, height: 84 };
const COMPUTE = { width: 200, height: 84 };
const GAP = 24;
/** Of one cluster, from its title down. */
const HEIGHT = 420;
const PUBLIC_Y = 80;
const FRONTEND_Y = 125;
const PRIVATE_Y = 265;
const COMPUTES_Y = 305;
/** More computes than these are drawn as a pile between the first ones and the last. */
const MOST_BOXES = 6;
const LEADING = 3;

/** A picture of clusters, one below the other: frontends between the public network and their own, computes below. */
export function diagramOf(clusters: readonly DrawnCluster[]): string {
  const widths = clusters.map(({ plan }) => boxesOf(plan).length * (COMPUTE.width + GAP) - GAP);
  const width = Math.max(720, ...widths) + 2 * MARGIN;
  const height = Math.max(1, clusters.length) * HEIGHT;
  const names = clusters
    .map(({ title, plan }) => `${title} with ${counted(plan.computes.length, "compute")}`)
    .join(", ");
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="sans-serif" font-size="14" role="img" aria-label="${escaped(`Virtual clusters: ${names || "none"}`)}">`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    ...clusters.flatMap((cluster, index) => drawn(cluster, index * HEIGHT, width)),
    "</svg>",
    "",
  ].join("\n");
}

function drawn({ title, plan }: DrawnCluster, top: number, width: number): string[] {
  const { frontend, privateNetwork, publicNetwork, computes } = plan;
  const boxes = boxesOf(plan);
  const middle = MARGIN + FRONTEND.width / 2;
  const cpus = computes.reduce((sum, node) => sum + node.cpus, 0);
  const summary = `${title}: ${counted(computes.length, "compute")}, ${counted(cpus, "cpu")}`;
  return [
    `<g transform="translate(0 ${top})">`,
    text(MARGIN, 34, summary, { size: 18, bold: true }),
    line(MARGIN, PUBLIC_Y, width - MARGIN, PUBLIC_Y, BLUE, 4),
    text(width - MARGIN, PUBLIC_Y - 10, `public network ${publicNetwork.name}, ${publicNetwork.cidr}`, {
      anchor: "end",
      colour: BLUE,
    }),
    line(middle, PUBLIC_Y, middle, FRONTEND_Y),
    text(middle + 8, PUBLIC_Y + 28, `${frontend.publicIp} · ${frontend.publicMac}`, { size: 12, colour: GREY }),
    box(MARGIN, FRONTEND_Y, FRONTEND, "#ebf4ff", BLUE),
    text(middle, FRONTEND_Y + 28, fitted(frontend.name, 34), { anchor: "middle", bold: true }),
    text(middle, FRONTEND_Y + 48, "frontend", { anchor: "middle", size: 12 }),
    text(middle, FRONTEND_Y + 68, shapeOf(frontend), { anchor: "middle", size: 12 }),
    line(middle, FRONTEND_Y + FRONTEND.height, middle, PRIVATE_Y),
    text(middle + 8, PRIVATE_Y - 20, `${frontend.privateIp} · ${frontend.privateMac}`, { size: 12, colour: GREY }),
    line(MARGIN, PRIVATE_Y, width - MARGIN, PRIVATE_Y, GREEN, 4),
    text(width - MARGIN, PRIVATE_Y - 10, `private network ${privateNetwork.cidr}`, { anchor: "end", colour: GREEN }),
    ...boxes.flatMap((nodes, index) => drawnComputes(nodes, MARGIN + index * (COMPUTE.width + GAP))),
    "</g>",
  ];
}

/** One compute, or a pile of them. */
function drawnComputes(nodes: readonly NodePlan[], x: number): string[] {
  const [first, last] = [nodes[0], nodes.at(-1)];
  if (!first || !last) {
    return [];
  }
  const middle = x + COMPUTE.width / 2;
  const isPile = nodes.length > 1;
  const shapes = new Set(nodes.map(shapeOf));
  const rows = isPile
    ? [`${nodes.length} more`, `${first.name} … ${last.name}`, `${first.privateIp} … ${last.privateIp}`]
    : [first.name, first.privateIp, first.privateMac];
  return [
    line(middle, PRIVATE_Y, middle, COMPUTES_Y),
    ...(isPile ? [8, 4].map((shift) => box(x + shift, COMPUTES_Y + shift, COMPUTE, "#f0fff4", GREEN)) : []),
    box(x, COMPUTES_Y, COMPUTE, "#f0fff4", GREEN),
    ...[...rows, shapes.size === 1 ? shapeOf(first) : "of several shapes"].map((row, index) =>
      text(middle, COMPUTES_Y + 22 + index * 18, row, {
        anchor: "middle",
        ...(index > 0 ? { size: isPile && index === 2 ? 11 : 12 } : { bold: true }),
      }),
    ),
  ];
}

function boxesOf({ computes }: ClusterPlan): NodePlan[][] {
  if (computes.length <= MOST_BOXES) {
    return computes.map((node) => [node]);
  }
  return [
    ...computes.slice(0, LEADING).map((node) => [node]),
    computes.slice(LEADING, -1),
    ...computes.slice(-1).map((node) => [node]),
  ];
}

function shapeOf({ cpus, memory }: NodePlan): string {
  return `${counted(cpus, "cpu")}, ${memory} MiB`;
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}

function fitted(words: string, length: number): string {
  return words.length > length ? `${words.slice(0, length - 1)}…` : words;
}

interface TextStyle {
  readonly anchor?: "middle" | "end";
  readonly size?: number;
  readonly bold?: true;
  readonly colour?: string;
}

function text(x: number, y: number, words: string, { anchor, size, bold, colour }: TextStyle = {}): string {
  const attributes = [
    ...(anchor ? [`text-anchor="${anchor}"`] : []),
    ...(size ? [`font-size="${size}"`] : []),
    ...(bold ? ['font-weight="bold"'] : []),
    ...(colour ? [`fill="${colour}"`] : []),
  ];
  return `<text ${[`x="${x}"`, `y="${y}"`, ...attributes].join(" ")}>${escaped(words)}</text>`;
}

function line(x1: number, y1: number, x2: number, y2: number, colour = GREY, width = 2): string {
  return `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke="${colour}" stroke-width="${width}"/>`;
}

function box(x: number, y: number, { width, height }: typeof COMPUTE, fill: string, stroke: string): string {
  return `<rect x="${x}" y="${y}" width="${width}" height="${height}" rx="8" fill="${fill}" stroke="${stroke}" stroke-width="2"/>`;
}

/** Also without what XML can't hold at all. */
function escaped(words: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  const plain = words.replaceAll(/[\x00-\x1f\x7f\ufffe\uffff]|\p{Surrogate}/gu, "�");
  return plain.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}
