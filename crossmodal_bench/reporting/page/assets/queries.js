"use strict";
/* The query browser. mountQueries(element, data) fills the element; the data come from page/queries.py. The reader's
   choices are kept by getState and setState of state.js, under keys that begin with "query". All texts are untrusted
   and become text nodes; pictures are data: URLs. */
(() => {
  const ARRAYS = { f4: Float32Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };
  const DIRECTIONS = { i2t: "image → captions", t2i: "caption → images" };
  const KEYS = ["protocol", "direction", "method", "beside", "order", "slice", "draw"];
  const COUNT = new Intl.NumberFormat("en");

  /* A typed array, decoded once. */
  function unpacked(packed) {
    if (!packed.values) {
      const text = atob(packed.data);
      const bytes = new Uint8Array(text.length);
      for (let at = 0; at < text.length; at += 1) bytes[at] = text.charCodeAt(at);
      packed.values = new ARRAYS[packed.type](bytes.buffer);
    }
    return packed.values;
  }

  function element(tag, className, ...children) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    made.append(...children.filter((child) => child !== null && child !== ""));
    return made;
  }

  function untrustedText(tag, className, text) {
    const made = element(tag, className, text);
    made.dir = "auto";
    return made;
  }

  /* Seeded random numbers in [0, 1) (mulberry32), the same in every browser. */
  function random(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let mixed = Math.imul(state ^ (state >>> 15), state | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };
  }

  function shuffled(count, seed) {
    const order = Array.from({ length: count }, (_, at) => at);
    const next = random(seed);
    for (let at = count - 1; at > 0; at -= 1) {
      const other = Math.floor(next() * (at + 1));
      [order[at], order[other]] = [order[other], order[at]];
    }
    return order;
  }

  /* By ascending value; missing values come last. */
  function sorted(count, value) {
    const values = Array.from({ length: count }, (_, at) => value(at));
    const known = (at) => (Number.isNaN(values[at]) ? Infinity : values[at]);
    const order = Array.from(values, (_, at) => at);
    return order.sort((left, right) => (known(left) === known(right) ? left - right : known(left) - known(right)));
  }

  function rankText(rank) {
    return Number.isInteger(rank) ? COUNT.format(rank) : COUNT.format(Math.round(rank * 10) / 10);
  }

  function scoreText(score) {
    return Math.abs(score) >= 1000 ? score.toFixed(0) : score.toPrecision(4);
  }

  /* Names for use in links; duplicates are numbered. */
  function distinct(names) {
    const seen = new Map();
    return names.map((name) => {
      seen.set(name, (seen.get(name) ?? 0) + 1);
      return seen.get(name) === 1 ? name : `${name}, ${seen.get(name)}`;
    });
  }

  window.mountQueries = (root, data) => {
    const protocols = data.protocols.filter((protocol) => protocol.rows.length);
    const cache = new Map();
    let list = [];
    let shown = "";

    /* ---- choices ---- */

    function choices() {
      const chosen = Object.fromEntries(KEYS.map((key) => [key, getState(`query-${key}`)]));
      const protocol = protocols.find((each) => each.title === chosen.protocol) ?? protocols[0];
      const direction = Object.hasOwn(DIRECTIONS, chosen.direction) ? chosen.direction : "t2i";
      const keys = distinct(protocol.rows.map((row) => `${row.name}, ${row.preset}`));
      const method = Math.max(keys.indexOf(chosen.method), 0);
      const beside = keys.indexOf(chosen.beside);
      const orders = ["random", "best", "worst", "disagreeing"];
      let order = orders.includes(chosen.order) ? chosen.order : "random";
      if (order === "disagreeing" && (beside < 0 || beside === method)) order = "random";
      const side = protocol.sides[direction];
      const slice = Object.hasOwn(side.labels, chosen.slice) ? chosen.slice : "";
      const draw = Math.max(parseInt(chosen.draw, 10) || 0, 0);
      const methods = beside < 0 || beside === method ? [method] : [method, beside];
      return { protocol, direction, side, keys, methods, order, slice, draw };
    }

    function answersOf({ protocol, direction, methods }) {
      return methods.map((at) => protocol.rows[at].answers[direction]);
    }

    /* Whether a query is in a slice; if that depends on the method, for any of the methods shown. */
    function inSlice(chosen, slice) {
      const bit = data.slices[slice];
      const flags = [chosen.side, ...answersOf(chosen)].map((part) => unpacked(part.flags));
      return (at) => flags.some((each) => each[at] & bit);
    }

    /* The chosen queries, in order. */
    function ordered(chosen) {
      const key = JSON.stringify([
        protocols.indexOf(chosen.protocol), chosen.direction, chosen.methods, chosen.order, chosen.slice, chosen.draw,
      ]);
      if (!cache.has(key)) {
        const count = unpacked(chosen.side.queries).length;
        const [ours, theirs] = answersOf(chosen).map((answers) => unpacked(answers.expected));
        let order = [];
        if (chosen.order === "random") order = shuffled(count, chosen.draw);
        if (chosen.order === "best") order = sorted(count, (at) => ours[at]);
        if (chosen.order === "worst") order = sorted(count, (at) => -ours[at]);
        if (chosen.order === "disagreeing") {
          order = sorted(count, (at) => -Math.abs(Math.log(ours[at]) - Math.log(theirs[at])));
        }
        cache.set(key, chosen.slice ? order.filter(inSlice(chosen, chosen.slice)) : order);
      }
      return cache.get(key);
    }

    /* ---- controls ---- */

    const controls = element("form", "queries-controls");
    controls.setAttribute("aria-label", "Which queries");
    const selects = {};
    const labels = {
      protocol: "Protocol", direction: "Direction", method: "Method", beside: "Compare with", order: "Order",
      slice: "Only",
    };
    for (const [key, label] of Object.entries(labels)) {
      selects[key] = element("select");
      selects[key].name = `query-${key}`;
      controls.append(element("label", "", element("span", "", label), selects[key]));
    }
    const again = element("button", "", "Draw again");
    again.type = "button";
    controls.append(again);

    const previous = element("button", "", element("span", "", "←"), " Previous");
    const next = element("button", "", "Next ", element("span", "", "→"));
    for (const [button, arrow, key] of [[previous, "ArrowLeft"], [next, "ArrowRight"]]) {
      button.type = "button";
      button.setAttribute("aria-keyshortcuts", arrow);
      button.querySelector("span").setAttribute("aria-hidden", "true");
    }
    const position = element("span", "queries-position");
    position.setAttribute("aria-hidden", "true");
    const status = element("p", "visually-hidden");
    status.setAttribute("role", "status");
    const steps = element("div", "queries-steps", previous, position, next);
    const hint = element("span", "soft queries-hint", "or press ← and →");
    const meaning = element("span", "soft queries-meaning");
    steps.append(hint, meaning);
    const view = element("div", "queries-view");
    root.replaceChildren(controls, steps, status, view);

    function fill(select, options, value) {
      const signature = JSON.stringify(options);
      if (select.dataset.signature !== signature) {
        select.replaceChildren(
          ...options.map(([name, text, disabled]) => {
            const option = new Option(text, name);
            option.disabled = Boolean(disabled);
            return option;
          }),
        );
        select.dataset.signature = signature;
      }
      select.value = value;
    }

    function updateControls(chosen) {
      const { protocol, direction, side, keys, methods } = chosen;
      fill(selects.protocol, protocols.map((each) => [each.title, each.title]), protocol.title);
      selects.protocol.parentElement.hidden = protocols.length < 2;
      fill(selects.direction, Object.entries(DIRECTIONS), direction);
      const named = protocol.rows.map((row, at) => [keys[at], `${row.name} (${row.preset}, seed ${row.seed})`]);
      fill(selects.method, named, keys[methods[0]]);
      const others = named.filter((_, at) => at !== methods[0]);
      fill(selects.beside, [["", "no other method"], ...others], methods.length > 1 ? keys[methods[1]] : "");
      selects.beside.parentElement.hidden = others.length === 0;
      const first = protocol.rows[methods[0]].name;
      fill(
        selects.order,
        [
          ["random", "random"],
          ["best", `best of ${first} first`],
          ["worst", `worst of ${first} first`],
          ["disagreeing", "where the two disagree most", methods.length < 2],
        ],
        chosen.order,
      );
      const count = unpacked(side.queries).length;
      const slices = Object.entries(side.labels).map(([name, { label }]) => {
        const test = inSlice(chosen, name);
        let size = 0;
        for (let at = 0; at < count; at += 1) size += Boolean(test(at));
        return [name, `${label}: ${COUNT.format(size)}`, size === 0 && name !== chosen.slice];
      });
      fill(selects.slice, [["", `all ${COUNT.format(count)} queries`], ...slices], chosen.slice);
      meaning.textContent = chosen.slice ? `Only ${side.labels[chosen.slice].meaning}.` : "";
      again.hidden = chosen.order !== "random";
    }

    /* ---- a query and its answers ---- */

    function picture(items, at, size) {
      const name = items.images[at] ?? "";
      const source = items.pictures[at];
      if (!source) {
        // A caption whose image is unknown has no name to show, either.
        return name ? untrustedText("span", `no-picture ${size}`, name) : null;
      }
      const image = element("img", size);
      image.src = `data:image/webp;base64,${source}`;
      image.alt = captionsOf(items, at)[0] ?? name;
      image.title = name;
      image.decoding = "async";
      return image;
    }

    function captionsOf(items, image) {
      if (!items.byImage) {
        items.byImage = new Map();
        unpacked(items.owner).forEach((owner, at) => {
          if (items.captions.length) items.byImage.set(owner, [...(items.byImage.get(owner) ?? []), at]);
        });
      }
      return (items.byImage.get(image) ?? []).map((at) => items.captions[at]);
    }

    function captionText(items, at) {
      return items.captions[at] ?? items.captionIds[at];
    }

    function queryCard({ protocol, direction, side }, at) {
      const items = data.items[protocol.items];
      const own = unpacked(side.queries)[at];
      if (direction === "i2t") {
        const captions = captionsOf(items, own).slice(0, 5);
        const list = element("ul", "", ...captions.map((text) => untrustedText("li", "", text)));
        return element(
          "div",
          "query",
          picture(items, own, "large"),
          element(
            "div",
            "",
            element("h3", "", "Image ", untrustedText("code", "", items.images[own])),
            captions.length ? element("p", "soft", "described as") : null,
            captions.length ? list : null,
          ),
        );
      }
      return element(
        "div",
        "query",
        picture(items, unpacked(items.owner)[own], "large"),
        element(
          "div",
          "",
          items.captions.length ? untrustedText("h3", "query-caption", items.captions[own]) : element("h3", "", "Caption"),
          element("p", "soft", "caption ", untrustedText("code", "", items.captionIds[own]), ", with its own image"),
        ),
      );
    }

    function answerItem(chosen, answers, at, place) {
      const items = data.items[chosen.protocol.items];
      const item = unpacked(answers.top)[at * answers.width + place];
      const right = Boolean(unpacked(answers.right)[at] & (1 << place));
      const mark = element("span", "mark", right ? "✓" : "✗");
      mark.setAttribute("aria-hidden", "true");
      const head = element(
        "span",
        "answer-head",
        element("span", "place", `${place + 1}`),
        mark,
        element("span", "visually-hidden", right ? "correct: " : "wrong: "),
      );
      const score = element("span", "score", scoreText(unpacked(answers.scores)[at * answers.width + place]));
      score.title = "score";
      const entry = element("li", right ? "right" : "");
      if (chosen.direction === "t2i") {
        entry.append(head, picture(items, item, "medium"), score);
      } else {
        const image = picture(items, unpacked(items.owner)[item], "small");
        if (image) {
          // Decorative: the caption says the same.
          image.alt = "";
          image.removeAttribute("title");
        }
        entry.append(head, ...(image && image.tagName === "IMG" ? [image] : []));
        entry.append(untrustedText("span", "answer-text", captionText(items, item)), score);
      }
      return entry;
    }

    function rankLine(chosen, answers, at) {
      const expected = unpacked(answers.expected)[at];
      const tied = unpacked(answers.tied)[at];
      if (Number.isNaN(expected)) return "The gallery has no correct answer";
      const place = `First correct answer at rank ${rankText(expected)} of ${COUNT.format(chosen.side.gallery)}`;
      if (!tied) return place;
      const rivals = tied === 1 ? "1 wrong answer is" : `${COUNT.format(tied)} wrong answers are`;
      return `${place} (expected): ${rivals} tied with it`;
    }

    function summaryLine(answers) {
      const ranks = list.map((at) => unpacked(answers.expected)[at]).filter((rank) => !Number.isNaN(rank));
      if (!ranks.length) return "";
      ranks.sort((left, right) => left - right);
      const middle = (ranks[(ranks.length - 1) >> 1] + ranks[ranks.length >> 1]) / 2;
      const first = (100 * ranks.filter((rank) => rank === 1).length) / ranks.length;
      const which = ranks.length === 1 ? "this 1 query" : `these ${COUNT.format(ranks.length)} queries`;
      return `Over ${which}: ${first.toFixed(1)} % correct alone at rank 1, median rank ${rankText(middle)}`;
    }

    function column(chosen, method, at) {
      const row = chosen.protocol.rows[method];
      const answers = row.answers[chosen.direction];
      const entries = Array.from({ length: answers.width }, (_, place) => answerItem(chosen, answers, at, place));
      const answersList = element("ol", `answers ${chosen.direction}`, ...entries);
      answersList.setAttribute("aria-label", `Best answers of ${row.name}`);
      return element(
        "div",
        "queries-method",
        element("h3", "", untrustedText("span", "", row.name), element("small", "", ` ${row.preset}, seed ${row.seed}`)),
        element("p", "rank", rankLine(chosen, answers, at)),
        answersList,
        element("p", "soft", summaryLine(answers)),
      );
    }

    function idOf({ protocol, direction, side }, at) {
      if (!side.names) {
        const items = data.items[protocol.items];
        const names = direction === "i2t" ? items.images : items.captionIds;
        side.names = distinct(Array.from(unpacked(side.queries), (item) => names[item]));
      }
      return side.names[at];
    }

    function placeOf(chosen) {
      const name = getState("query");
      return Math.max(name ? list.findIndex((at) => idOf(chosen, at) === name) : 0, 0);
    }

    function render() {
      const chosen = choices();
      list = ordered(chosen);
      const place = placeOf(chosen);
      const at = list[place];
      // The state also changes for other parts of the page.
      const now = JSON.stringify([KEYS.map((key) => getState(`query-${key}`)), at]);
      if (now === shown) return;
      shown = now;
      updateControls(chosen);
      previous.disabled = place === 0;
      next.disabled = place >= list.length - 1;
      position.textContent = list.length ? `${COUNT.format(place + 1)} of ${COUNT.format(list.length)}` : "none";
      if (!list.length) {
        status.textContent = "This slice has no queries.";
        view.replaceChildren(element("p", "soft", "This slice has no queries."));
        return;
      }
      const ranks = chosen.methods.map((method) => {
        const row = chosen.protocol.rows[method];
        return `${row.name}: ${rankLine(chosen, row.answers[chosen.direction], at)}`;
      });
      status.textContent = `Query ${place + 1} of ${list.length}. ${ranks.join(". ")}.`;
      view.replaceChildren(
        queryCard(chosen, at),
        element(
          "div",
          chosen.methods.length > 1 ? "queries-columns two" : "queries-columns",
          ...chosen.methods.map((method) => column(chosen, method, at)),
        ),
      );
    }

    /* ---- events ---- */

    function go(to) {
      const place = Math.min(Math.max(to, 0), list.length - 1);
      if (list.length) setState("query", idOf(choices(), list[place]));
      render();
    }

    function step(by) {
      go(placeOf(choices()) + by);
    }

    controls.addEventListener("submit", (event) => event.preventDefault());
    controls.addEventListener("change", (event) => {
      const { name, value } = event.target;
      // Keep the query when the method changes; otherwise start over.
      if (name !== "query-method" && name !== "query-beside") setState("query", "");
      setState(name, value);
      render();
    });
    again.addEventListener("click", () => {
      setState("query", "");
      setState("query-draw", String(choices().draw + 1));
      render();
    });
    previous.addEventListener("click", () => step(-1));
    next.addEventListener("click", () => step(1));
    root.addEventListener("keydown", (event) => {
      if (event.target.tagName === "SELECT" || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      const steps = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), Home: () => go(0), End: () => go(Infinity) };
      if (!Object.hasOwn(steps, event.key)) return;
      event.preventDefault();
      steps[event.key]();
    });
    // Makes the arrow keys work after a click anywhere in the view.
    view.tabIndex = 0;
    view.setAttribute("role", "group");
    view.setAttribute("aria-label", "The query and its answers");
    window.addEventListener("statechange", render);
    render();
  };
})();
