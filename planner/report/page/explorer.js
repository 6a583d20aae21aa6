(() => {
  const grid = data.explorer;
  const box = document.getElementById("explorer-states");
  if (!grid || !box) return;

  const MARKS = ["fits", "tight", "no", "no", "refused"];
  const SIGNS = { fits: "✓", tight: "!", no: "×", refused: "–" };
  const table = document.getElementById("map");
  const form = box.querySelector("form");
  const words = grid.words;
  const sizes = [grid.methods, grid.cards, grid.lengths, grid.micro, grid.recompute].map((axis) => axis.length);
  let [method, cards, length, micro, recompute] = grid.chosen;
  let shown = "0";

  const put = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const make = (name, text, attributes = {}) => {
    const made = document.createElement(name);
    made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const fill = (name, text) => { document.getElementById(`state-${name}`).textContent = text; };

  function stateAt(n, b) {
    const place = [method, cards, n, b, recompute];
    return grid.states[place.reduce((index, at, axis) => index * sizes[axis] + at, 0)];
  }

  function readState(state) {
    const mark = MARKS[state[0]];
    if (state[0] === 3) return { mark, budget: state[1] };
    if (state[0] === 4) return { mark, refusal: grid.refusals[state[1]] };
    const [, share, worst, budget, spare, rate, step, strategy, accumulation, total] = state;
    return {
      mark, share, worst, budget, spare, rate, step, accumulation, total,
      strategy: grid.strategies[strategy],
    };
  }

  const where = () => ({
    method: grid.methods[method],
    cards: grid.cards[cards],
    recompute: grid.recompute[recompute],
    length: grid.lengths[length],
    micro: grid.micro[micro],
    devices: grid.devices[cards],
  });

  const isChosen = (n, b) => [method, cards, n, b, recompute].every((at, axis) => at === grid.chosen[axis]);

  function cellText(state) {
    if (state.mark === "refused") return "";
    if (shown === "1") return state.rate ?? "";
    return state.worst ?? "";
  }

  function makeCell(n, b) {
    const state = readState(stateAt(n, b));
    const here = n === length && b === micro;
    const cell = make("td", "", { class: state.mark, "aria-selected": here, tabindex: here ? 0 : -1 });
    cell.dataset.length = n;
    cell.dataset.micro = b;
    const sign = make("b", SIGNS[state.mark], { class: "sign", "aria-hidden": true });
    const label = make("span", words[`cell_${state.mark}`], { class: "unseen" });
    cell.append(sign, label, make("span", cellText(state), { class: "figure" }));
    if (isChosen(n, b)) cell.append(make("span", words.here, { class: "here" }));
    return cell;
  }

  function drawMap() {
    const caption = put(shown === "1" ? words.map_speed : words.map_memory, where());
    const head = make("tr", "");
    head.append(make("td", words.corner));
    for (const text of grid.lengths) head.append(make("th", text, { scope: "col" }));
    const rows = grid.micro.map((size, b) => {
      const row = make("tr", "");
      row.append(make("th", size, { scope: "row" }));
      row.append(...grid.lengths.map((_, n) => makeCell(n, b)));
      return row;
    });
    const [top, body] = [make("thead", ""), make("tbody", "")];
    top.append(head);
    body.append(...rows);
    table.replaceChildren(make("caption", caption), top, body);
  }

  function verdictOf(state) {
    if (state.refusal) return `${words.refused}: ${state.refusal}`;
    if (state.worst === undefined) return words.implied;
    if (state.mark === "no" && !state.spare) return words.host;
    return put(words[state.mark], state);
  }

  function drawState() {
    const state = readState(stateAt(length, micro));
    const verdict = document.getElementById("state-verdict");
    const values = { ...where(), ...state };
    fill("title", put(words.state, values));
    verdict.className = `verdict ${state.mark}`;
    verdict.textContent = `${SIGNS[state.mark]} ${verdictOf(state)}`;
    const priced = state.worst !== undefined;
    fill("memory", priced ? put(words.memory, values) : state.refusal ? "–" : put(words.memory_unknown, values));
    fill("speed", state.rate ? put(words.speed, values) : state.mark === "fits" || state.mark === "tight" ? words.speed_unknown : "–");
    fill("strategy", priced ? state.strategy : "–");
    fill("batch", priced ? put(values.devices > 1 ? words.batch_of_several : words.batch, values) : "–");
    putCommand(document.querySelector("#state-command code"), [
      grid.commands[method][cards],
      grid.length_options[length],
      grid.micro_options[micro],
      grid.recompute_options[recompute],
    ].join(" "));
  }

  function draw() {
    drawMap();
    drawState();
  }

  function choose(n, b) {
    length = Math.max(0, Math.min(grid.lengths.length - 1, n));
    micro = Math.max(0, Math.min(grid.micro.length - 1, b));
    draw();
    table.querySelector('[aria-selected="true"]').focus();
  }

  const MOVES = {
    ArrowLeft: () => [length - 1, micro],
    ArrowRight: () => [length + 1, micro],
    ArrowUp: () => [length, micro - 1],
    ArrowDown: () => [length, micro + 1],
    Home: () => [0, micro],
    End: () => [grid.lengths.length - 1, micro],
  };

  table.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    choose(...move());
  });
  table.addEventListener("click", (event) => {
    const cell = event.target.closest("td[data-length]");
    if (cell) choose(Number(cell.dataset.length), Number(cell.dataset.micro));
  });
  form.addEventListener("change", () => {
    [method, cards, recompute] = ["method", "cards", "recompute"].map((name) => Number(form.elements[name].value));
    shown = form.elements.shown.value;
    draw();
  });
  form.addEventListener("submit", (event) => event.preventDefault());

  for (const [name, value] of Object.entries({ method, cards, recompute })) form.elements[name].value = value;
  box.hidden = false;
  draw();
})();
