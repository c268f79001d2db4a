"""Proofs as people and provers write them, in the manner of Mathlib and miniF2F, as data: the lexical gate must let every one through.

They are to be read, not run: no Lean that the tests need has the library that they speak of.
"""

from __future__ import annotations

HONEST = (
    """by
  calc a + b = b + a := by rw [add_comm]
    _ = c := h""",
    """calc
  (x + y)^2 = x^2 + 2*x*y + y^2 := by ring
  _ ≤ 2 * (x^2 + y^2) := by nlinarith [sq_nonneg (x - y)]""",
    "fun | .inl h => .inr h | .inr h => .inl h",
    """fun
  | 0 => rfl
  | n + 1 => by simp""",
    """by
  match h with
  | ⟨x, hx⟩ => exact ⟨x, hx.1, hx.2⟩""",
    """by
  match n, h with
  | 0, _ => simp
  | n+1, h => exact absurd h (by omega)""",
    """by
  have ⟨x, hx⟩ := h
  obtain ⟨y, hy⟩ : ∃ y, y > x := ⟨x + 1, by linarith⟩
  exact ⟨y, hx.trans_lt hy⟩""",
    """by
  rcases h with ⟨x, hx, rfl⟩ | ⟨y, hy⟩
  · exact ⟨x, hx⟩
  · exact ⟨y, hy.le⟩""",
    "by nlinarith [sq_nonneg (a - b), sq_nonneg (a - c), sq_nonneg (b - c), mul_pos ha hb]",
    "by norm_num [Nat.choose] at *",
    "⟨fun h => h.symm, fun h => h.symm⟩",
    """by
  intro s hs
  have : ∀ x ∈ s, 0 < x := fun x hx => hs x hx
  exact Finset.sum_pos (fun i hi => this i hi) ⟨1, h1⟩""",
    """by
  refine ⟨?_, ?_⟩ <;> intro h <;> simp_all""",
    """by
  conv_lhs => rw [← mul_one a]
  conv =>
    lhs
    arg 2
    rw [mul_comm]""",
    """by
  conv in a * b => rw [mul_comm]
  rfl""",
    "show a ≤ b from le_of_lt h",
    """by
  by_cases hp : p
  · exact Or.inl hp
  · exact Or.inr hp""",
    """by
  letI := Classical.decEq α
  haveI : Nonempty α := ⟨x⟩
  infer_instance""",
    "by exact_mod_cast h",
    """by
  -- we use AM-GM
  /- block /- nested -/ here -/
  have h₁ : x * y ≤ ((x+y)/2)^2 := by
    nlinarith [sq_nonneg (x - y)]
  linarith""",
    """by
  field_simp
  rw [div_le_div_iff (by positivity) (by positivity)]
  ring_nf
  nlinarith [sq_nonneg (a*b - b*c)]""",
    """by
  induction' n with n ih
  · simp
  · rw [Finset.sum_range_succ, ih]
    ring""",
    """by
  induction n using Nat.strong_induction_on with
  | _ n ih =>
    cases n with
    | zero => simp
    | succ m => exact ih m (Nat.lt_succ_self m)""",
    """by
  wlog h : a ≤ b generalizing a b
  · exact (this b a (le_of_not_le h)).symm
  exact h""",
    """by
  suffices h : ∀ n, f n = g n by exact funext h
  intro n
  simpa using congr_fun hfg n""",
    """by
  rw [show (4:ℝ) = 2^2 by norm_num, Real.sqrt_sq (by norm_num)]""",
    """by
  apply Nat.le_antisymm
  · exact h.le
  all_goals first | assumption | (intro; omega)""",
    """by
  set y := x + 1 with hy
  clear_value y
  subst hy
  nth_rewrite 2 [← h]
  rfl""",
    """by
  ext x; constructor
  · rintro (⟨hx, hy⟩ | hz)
    exacts [⟨hx, Or.inl hy⟩, ⟨hz.1, Or.inr hz⟩]
  · tauto""",
    """by
  filter_upwards [h₁, h₂] with x hx₁ hx₂ using hx₁.trans hx₂""",
    """by
  haveI := Fact.mk hp
  have := ZMod.pow_card_sub_one_eq_one (p := p) h
  simpa [← Nat.cast_pow]""",
    """by
  rw [Nat.ModEq, ← Int.natCast_mod, Int.emod_emod_of_dvd _ (by decide : (2:ℤ) ∣ 4)]""",
    """by
  have := h (x := 2) (by norm_num : (2:ℝ) ≠ 0)
  rw [← this]; ring_nf""",
    """by
  simp_rw [← Finset.sum_product', Finset.mul_sum]
  exact Finset.sum_congr rfl fun i _ ↦ by ring""",
    """by
  unfold f at *
  simp [f, g] at h₀ h₁ ⊢
  linarith [h₀, h₁]""",
    """fun ε hε ↦ ⟨δ, hδ, fun x hx ↦ by
  rw [Real.dist_eq] at *
  exact lt_of_le_of_lt (abs_sub_abs_le_abs_sub _ _) (hx.trans_le (min_le_left _ _))⟩""",
    """by
  apply_fun (fun x => x^2) at h
  nlinarith""",
    """by
  norm_num [Complex.ext_iff, pow_succ] at h ⊢
  exact h.1""",
    """by
  rw [Finset.sum_comm]
  refine Finset.sum_congr rfl (fun x hx => ?_)
  split_ifs with h₁ h₂
  · rfl
  · exact (h₂ h₁).elim
  · rfl""",
    """by
  obtain ⟨k, rfl | rfl⟩ := Nat.even_or_odd' n
  · exact ⟨k, by ring⟩
  · exact ⟨k, by ring⟩""",
    """by
  exact fun x ⟨hx, h'x⟩ => ⟨h'x, hx⟩""",
    """by
  let f : ℕ → ℕ := fun n => n ^ 2 + 1
  have hf : StrictMono f := by intro a b hab; dsimp only [f]; gcongr
  exact hf.injective""",
    """by
  have key : ∀ᶠ n in atTop, u n ≤ v n := by
    filter_upwards [eventually_ge_atTop 1] with n hn
    positivity
  exact le_of_tendsto_of_tendsto hu hv key""",
    """by
  rw [← Set.image_subset_iff (s := s) (f := f)]
  exact Set.inter_subset_left""",
    """by
  cases' h with x hx
  rcases lt_trichotomy x 0 with (h | rfl | h)
  · nlinarith
  · simp at hx
  · nlinarith""",
    """by
  by_contra! hne
  push_neg at hne
  exact absurd (hne 0) (by simp)""",
    """by
  contrapose! h
  exact h.not_le""",
    """by
  fin_cases i <;> simp [Matrix.det_fin_two, Matrix.cons_val_zero]""",
    """by
  simp (disch := positivity) only [Real.log_mul, Real.log_pow]
  linarith""",
    """by
  linarith (config := {splitNe := true})""",
    """by
  ring_nf
  norm_num [h₀]; linear_combination (2 : ℂ) * h₁ - h₂ ^ 2""",
    """by
  rw [sub_eq_iff_eq_add']
  exact h ▸ rfl""",
    "(h₁.trans h₂).trans <| by simpa using h₃ |>.symm",
    "h.elim (fun ⟨x, hx⟩ ↦ ⟨x, .inl hx⟩) fun ⟨x, hx⟩ ↦ ⟨x, .inr hx⟩",
    """by
  iterate 3 rw [Nat.succ_eq_add_one]
  repeat' constructor
  any_goals assumption
  rename_i x y
  exact x""",
    """by
  case inl h => exact h
  case inr h => exact h.symm""",
    """by
  next => simp
  next h => exact h""",
    "by gcongr ?_ + _; exact h",
    """by
  have h : (∑ i ∈ Finset.range (n + 1), (i : ℚ)) = n * (n + 1) / 2 := by
    induction n with
    | zero => simp
    | succ k ih => rw [Finset.sum_range_succ, ih]; push_cast; ring
  exact h""",
    """by
  calc
    _ = ∫ x in (0:ℝ)..1, x ^ 2 := rfl
    _ = 1 / 3 := by simp [integral_pow]; norm_num""",
    """by
  rw [Real.sqrt_lt' (by positivity)]
  exact mod_cast h""",
    """by
  exact ⟨_, ⟨h, rfl⟩, h'.prefix_of⟩""",
    """by
  rintro ⟨⟩
  exact List.prefix_append _ _""",
    """by
  rcases List.eq_nil_or_concat l with rfl | ⟨l, a, rfl⟩
  · simp
  · simp [List.prefix_iff_eq_append]""",
    """by
  rw [if_pos h, dif_neg (not_lt.2 h')]
  exact Subtype.ext rfl""",
    """by
  unfold_let
  exact this""",
    """by
  have : x ∈ ({1, 2, 3} : Finset ℕ) := by decide
  simpa using this""",
    """by
  exact_mod_cast (show ((n:ℤ):ℝ) = _ from by norm_cast)""",
    "fun h => by cases h with | intro l r => exact ⟨r, l⟩",
    """by
  rfl  -- `rfl` proves it, see `Nat.add_comm`""",
    """by
  have h1 : (fun x ↦ x⁻¹) '' s = s⁻¹ := by ext; simp
  rw [h1]""",
    """by
  have h' : f' x = 0 := by simpa [f'] using hf'' x
  exact h'""",
    """by
  show f^[n] x = x
  exact Function.iterate_fixed h n""",
    """by
  rw [Matrix.det_fin_three]; simp [!![1, 2; 3, 4]]""",
    """by
  open Real in
  simp [π_pos.le]""",
    """by
  have ⟨a, b⟩ : ∃ a : ℕ, a = 1 := ⟨1, rfl⟩; exact b""",
    """by
  exact le_trans (norm_sum_le _ _) (Finset.sum_le_sum fun i hi => (h i hi).le)""",
    """by
  exact Nat.pos_of_ne_zero fun h => by subst h; simp at *""",
    """by
  have h₀ : ⌊(x:ℝ)⌋ = 3 := by rw [Int.floor_eq_iff]; constructor <;> norm_num
  simp [h₀, ⌈x⌉₊]""",
    """by
  exact_mod_cast Nat.Prime.eq_one_or_self_of_dvd (by norm_num : Nat.Prime 13) _ h""",
    """by
  exact fun {a b} hab => hf hab""",
    """by
  exact (by infer_instance : Decidable p).casesOn (fun h => .inr h) .inl""",
    """by
  rw [sum_eq_single_of_mem 0 (by simp) (by aesop)]""",
    """by
  have : ∀ n : ℕ, ∃! x, x = n := fun n => ⟨n, rfl, fun _ h => h⟩
  exact this 0""",
    """have h : 1 = 1 := rfl
h ▸ trivial""",
    """by
  set_option maxRecDepth 10000 in
  decide""",
    """by
  rcases em p with hp | hn; exact .inl hp; exact .inr hn""",
    """by
  convert h using 2
  ring""",
    """by
  nlinarith [pow_two_nonneg (x - 1), h₁.le, mul_self_nonneg (x + y)]""",
    """by
  rw [Finset.prod_range_succ']
  simp only [Nat.cast_ofNat]""",
    """by
  dsimp at *; subst_vars; congr! 1; funext x; apply propext; exact Iff.rfl""",
    """by
  lift n to ℕ using h.le
  norm_cast""",
    """by
  choose f hf using h
  exact ⟨f, hf⟩""",
    """by
  classical
  exact Finset.card_le_card h""",
    """by
  refine Eq.symm ?_; rw [eq_comm (a := x)]""",
    """by
  rw [← Nat.sub_eq_iff_eq_add' (Nat.le_of_lt_succ (by assumption))]""",
    """by
  have : (1 : ℝ) / 3 ^ 2 < 0.2 := by norm_num
  linarith""",
    """by
  have : (1e-3 : ℝ) < 1.5e2 := by norm_num
  linarith""",
    """by
  simp [Function.comp_def, (· ∘ ·), (· + 1)]""",
    """by
  exact h.1 (by simpa only [← sub_nonneg] using h.2) |>.trans (by rfl)""",
    """by
  exact { left := h.1, right := h.2 }""",
    "{ left := fun h => h, right := by { intro h; exact h } }",
    """by
  have h : ¬¬p := by tauto
  exact Classical.not_not.1 h""",
    """by
  rw [Polynomial.eval₂_C, ← C_mul_X_pow_eq_monomial, X_pow_sub_one]""",
    """by
  bound""",
    """by
  exact Set.mem_iUnion₂.mpr ⟨i, hi, hx⟩""",
    """by
  simp +contextual [h]""",
    """by
  simp -decide only [h]""",
    """by
  simp [eq_comm (a := (0 : ℤ))] at h""",
    """by
  exact h.trans (le_of_eq <| by congr with i; rfl)""",
    """by
  extract_lets a b at h
  exact h""",
    """by
  exact Exists.intro 5 (And.intro (by norm_num) (by norm_num [show ((5:ℕ):ℝ) = 5 from rfl]))""",
    """by
  by_cases h : x = 0 ;{ simp [h] }
  { simp [h] }""",
    """by
  rintro - -
  exact trivial""",
    """by
  rcases h with ⟨-, h⟩
  exact h""",
    """by
  simp [Nat.cast_succ] at *<;>linarith""",
    """by
  norm_num<;>nlinarith [h]""",
    "by linarith [h₀]--done",
    """by
  nlinarith[sq_nonneg (a+b),sq_nonneg (a-b)]""",
    """by
  cases n
  case zero => rfl
  case succ n => simp [Nat.succ_eq_add_one]; ring""",
    """by
  intro x hx
  simp_all only [Set.mem_setOf_eq, Set.mem_Icc, and_imp]
  exact ⟨by linarith, by linarith⟩""",
)
