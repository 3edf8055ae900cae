/* glossary.c: the words of the page for somebody who meets them for the first time. */
#include "report/page.h"

static const char *const WORDS[][2] = {
    {"Confidence", "The probability that the model gives to the answer it picks."},
    {"Accuracy", "The share of questions on which the picked answer is right."},
    {"Calibration", "Confidence that deserves its name: of all answers given with 70% confidence, 70% are right."},
    {"ECE", "Expected calibration error. The answers are sorted into 15 bins by confidence; in each bin mean "
            "confidence and accuracy are compared; the gaps are "
            "averaged, weighted by the bins' counts. 0 is perfect. With few questions it is never 0 even for a perfect "
            "model: see chance floor."},
    {"Chance floor", "The ECE that a perfectly calibrated model with just these probabilities would show on so many "
                     "questions: its mean and, in brackets, the value it stays "
                     "below in 95% of cases. An ECE under the latter is as good as this number of questions can tell."},
    {"Excess ECE", "ECE minus the mean of the chance floor. Around 0 for a calibrated model, and may be negative."},
    {"MCE", "The largest gap of any bin, however few answers it holds: noisy."},
    {"Equal-mass ECE", "ECE with 15 bins that hold equally many answers, so that no bin is nearly empty."},
    {"NLL", "Negative log-likelihood, in nats: how surprised the model is by the right answer, on average. It rewards "
            "being right and being honest at once. Lower is better."},
    {"Brier score", "Mean squared distance between the probabilities and the truth. From 0 to 2, lower is better."},
    {"Risk-coverage, AURC",
     "Let the model answer only when it is most confident: the curve shows the share of wrong answers (risk) against "
     "the share of questions answered "
     "(coverage). AURC is the area under it. Lower is better: confidence then tells which answers to trust."},
    {"95% interval", "In brackets: the range in which the figure lies in 95% of bootstrap resamples, that is, of sets "
                     "of questions drawn anew from these. Resampling by itself "
                     "raises ECE and MCE a little, so their interval can lie higher than the value; the chance floor "
                     "says how much of an ECE is noise."},
    {"better, worse, unclear", "A difference to the baseline on the same questions (paired bootstrap). Unclear: its "
                               "95% interval includes 0, so these questions do not show a change."},
    {"Router, expert", "In a Mixture-of-Experts model each layer holds many small networks, the experts; a router "
                       "picks a few of them for every word."},
    {"Dense, split, distilled",
     "A dense model has no experts: everything in it runs for every word. Upcycling splits its layers into experts, of "
     "which only some run, so that part of every sum is missing; distillation trains the result until its "
     "probabilities "
     "come near the dense model's again."},
    {"KL divergence", "How far one set of probabilities is from another, in nats. 0: they are the same."},
    {"MAP", "The model with its ordinary, deterministic router: what the others are compared with."},
    {"VGLR-FC, VGLR-MF", "Variational routers: the router's scores are not numbers but a learned Gaussian "
                         "distribution, with correlations between experts (FC, full covariance) or "
                         "without (MF, mean field). Averaging over it is meant to take away unfounded confidence."},
    {"Published MAP, NLL-stopped MAP",
     "Two states of one fine-tuning: the last, as papers publish it, which has learned its questions by heart and is "
     "too "
     "sure; and the one with the lowest NLL on questions kept aside, the stronger baseline."},
    {"Seed",
     "The number that all chance in a training comes from. Several trainings that differ in it alone show how much "
     "of a result is luck."},
    {"VTSR",
     "A variational router of one number a word: a routing temperature, at which the experts are drawn rather than "
     "picked."},
    {"Noise only, MAP trained on, isotropic noise", "Controls. Learned noise without a shift of the scores; the "
                                                    "router's own weights trained for as many steps, without "
                                                    "noise; noise of one size on the scores, nothing trained."},
    {"Fixed temperature, RoE, Expert-Sample",
     "Rivals without training: the experts are drawn at one temperature; drawn several times and averaged (RoE); the "
     "surest ones kept and only the others drawn (Expert-Sample)."},
    {"MC dropout, SWAG, ensemble",
     "Rivals with several sets of router weights: some left out at random, drawn from the course of the training, or "
     "trained apart."},
    {"Residual, temperature", "Controls. Residual: the same network learns only a shift of the router's scores, "
                              "without any randomness. Temperature: one number that flattens or "
                              "sharpens the final probabilities."},
    {"Out of distribution",
     "Questions of another kind than those the model was trained on. A good uncertainty signal is higher for them."},
    {"AUROC", "The chance that the signal is higher for a strange question than for a familiar one. 1: always, 0.5: no "
              "better than a coin, below 0.5: it points the wrong way."},
    {"AUPR, FPR95", "Average precision with the strange questions as positives (guessing gives their share); and the "
                    "share of familiar questions that raise a false alarm when 95% of the "
                    "strange ones are caught (lower is better)."},
    {"ROC curve",
     "The share of strange questions caught against the share of familiar ones flagged by mistake, for every "
     "threshold of a signal. AUROC is the area under it."},
    {"Mutual information", "Of several passes with different draws: how much of the uncertainty is the passes' "
                           "disagreement. The rest, the expected entropy, each pass has by itself."},
    {"Jaccard index",
     "Of two choices of experts: the experts in both, divided by the experts in either. 1: the same, 0: "
     "none in common. Chance-corrected: 0 is what two random choices share."},
    {"Noise in one layer, noise everywhere",
     "Where the noise on the routers' input is put: in the layer that is looked at alone (isolated), or in all, so "
     "that a "
     "layer also sees what changed below (propagated). Same draws: a variational router's own randomness held fixed."},
    {"Load entropy, between words",
     "How evenly the experts are used, and how alike the choices of different words are. A "
     "router that always picks the same experts is steady, but useless."},
    {"Is the router alive",
     "Whether its randomness decides anything: does another draw pick other experts, is the noise of "
     "different size for different words, does it connect experts?"},
    {"Operations, workspace",
     "Floating-point operations (FLOPs), by formula and as counted; and the memory that a router "
     "needs while it runs, beside its parameters."},
    {"Answer set, coverage",
     "A set of choices that holds the right answer with a chosen probability; coverage is how often "
     "it does. LAC gives the smallest sets, APS larger ones where the model is unsure."},
    {"Shift", "Thresholds found on questions of one kind and used on another: then theory promises nothing."},
    {"Length",
     "A control, not a signal: the number of tokens of the question. Where it alone tells two sets apart, "
     "part of any signal's success may be the length. Length taken out, equal lengths: the signal without its straight "
     "line on the logarithm of the length, and compared between questions paired by length."},
    {"Gate entropy, logit variance",
     "How undecided the router is between experts; and how wide the distribution of a variational router's scores is "
     "(projected: without a shift common "
     "to all experts, which changes nothing). Averaged over the question's words, or of its last one."},
};

void vm_page_glossary(vm_text *t) {
    vm_text_put(t, "<h2 id=\"glossary\">Words</h2>\n<dl>\n");
    for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++)
        vm_text_put(t, "<dt>%s</dt><dd>%s</dd>\n", WORDS[i][0], WORDS[i][1]);
    vm_text_put(t, "</dl>\n");
}
