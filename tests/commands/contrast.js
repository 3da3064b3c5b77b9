// {count, low}: how many texts are shown, and those with less than 4.5 to 1 against what lies behind them.
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const luminance = (colour) => {
    const [r, g, b] = colour.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  let count = 0;
  const low = [];
  for (const node of document.querySelectorAll("body *")) {
    const text = [...node.childNodes].filter((child) => child.nodeType === 3 && child.data.trim()).map((child) => child.data).join("");
    if (!text || !node.checkVisibility() || node.closest("script, style, option, :disabled, .skip")) continue;
    const ground = behind(node);
    const colour = over([...rgba(getComputedStyle(node).color).slice(0, 3), Number(getComputedStyle(node).opacity)], ground);
    const [a, b] = [luminance(colour), luminance(ground)].sort((x, y) => y - x);
    count++;
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(`${node.className || node.localName}: ${text.slice(0, 30)}: ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
  }
  return { count, low: [...new Set(low)] };
})();
