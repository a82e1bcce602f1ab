// Before a session: what to type, and where it is.

import { h } from "./dom.js";
import { codes } from "./overview.js";

const form = { error: "", isBusy: false };

export function signInView(state, signIn) {
  const submit = async (event) => {
    event.preventDefault();
    const field = event.target.elements.key;
    if (!field.value.trim()) { form.error = "Paste the key first."; window.dispatchEvent(new Event("redraw")); return; }
    form.isBusy = true;
    window.dispatchEvent(new Event("redraw"));
    try {
      await signIn({ key: field.value.trim() });
      form.error = "";
    } catch (error) {
      form.error = error.message;
    }
    form.isBusy = false;
    window.dispatchEvent(new Event("redraw"));
  };
  return h("main", { id: "main", class: "plain", key: "sign-in", tabindex: "-1" },
    h("h1", {}, "bouchet"),
    h("p", {}, "This page shows and controls the models that this installation serves from a Slurm cluster."),
    state.ended ? h("p", { class: "problem", role: "alert" }, state.ended) : null,
    h("h2", {}, "Sign in"),
    h("p", {}, ...codes("In a terminal, in the project's folder, `./bouchet open` opens this page signed in. Or paste the value of `BOUCHET_ADMIN_KEY` from the file `.env` there:")),
    h("form", { onsubmit: submit }, h("input", { type: "text", name: "username", autocomplete: "username", value: "bouchet", hidden: true }), h("label", {}, "Admin key", h("input", { type: "password", name: "key", autocomplete: "current-password", spellcheck: "false", "aria-describedby": "key-hint", "aria-invalid": form.error ? "true" : null })),
      form.error ? h("p", { class: "problem", role: "alert" }, ...codes(form.error)) : null,
      h("button", { type: "submit", class: "main", disabled: form.isBusy }, "Sign in")),
    h("p", { class: "hint", id: "key-hint" }, "This browser then stays signed in for a week. The key itself is not kept."));
}
