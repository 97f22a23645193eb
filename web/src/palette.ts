// Colours live in style.css, where dark mode is; a canvas has to be given them. Okabe and Ito's set: told apart with any
// kind of colour blindness.

const NAMES = ["surface", "dim", "grid", "base", "forecast", "room", "pressure", "alarm", "curve", "fill", "steady", "limit", "request", "ghost",
  "band0", "band1", "band2", "band3", "band4", "band5", "bandrest"];
let known: Record<string, string> | null = null;

export function colours(): Record<string, string> {
  if (!known) {
    const style = getComputedStyle(document.documentElement);
    known = Object.fromEntries(NAMES.map(name => [name, style.getPropertyValue(`--${name}`).trim()]));
  }
  return known;
}

/** Called when light turns to dark. */
export function repaint(then: () => void): void {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { known = null; then(); });
}
